// Which parts of a sentence are code: `...`, dotted names, calls.
export interface Piece {
  text: string;
  code: boolean;
}

const CODE = /`[^`]+`|\b(?:\d+\.)+[A-Za-z_]\w*(?:\.\w+)*|\b[A-Za-z_][\w]*(?:\[[^\]\s]*\])*(?:\.[A-Za-z_0-9][\w]*(?:\[[^\]\s]*\])*)+(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?|\b[A-Za-z_]\w*\([^()]*(?:\([^()]*\)[^()]*)*\)/g;

export function piecesOf(text: string): Piece[] {
  const found: Piece[] = [];
  let end = 0;
  for (const match of text.matchAll(CODE)) {
    const at = match.index;
    if (/^(e\.g|i\.e)\b/.test(match[0])) continue;
    if (at > end) found.push({ text: text.slice(end, at), code: false });
    found.push({ text: match[0].replace(/^`|`$/g, ""), code: true });
    end = at + match[0].length;
  }
  if (end < text.length) found.push({ text: text.slice(end), code: false });
  return found;
}
