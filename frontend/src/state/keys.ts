// Keys of the whole page. A view registers its own while it is shown; typing into a field is left alone, and so is what presses a
// button.
export type Keys = Record<string, () => void>;

const layers: Keys[] = [];

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.metaKey || event.ctrlKey || event.altKey) return;
  const target = event.target as HTMLElement | null;
  if (target?.closest("input, select, textarea")) {
    if (event.key === "Escape") target.blur();
    return;
  }
  if ((event.key === "Enter" || event.key === " ") && target?.closest("button, a")) return; // presses what has the focus
  for (let i = layers.length - 1; i >= 0; i--) {
    const action = layers[i]?.[event.key];
    if (action) {
      event.preventDefault();
      action();
      return;
    }
  }
});

/** Listen; what comes back stops it. */
export function keys(of: Keys): () => void {
  layers.push(of);
  return () => {
    const at = layers.indexOf(of);
    if (at >= 0) layers.splice(at, 1);
  };
}
