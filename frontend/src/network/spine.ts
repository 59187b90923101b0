// The modules as executed by a pen, for files: what the page shows as links, at the same places.
import { token, write } from "../chart/canvas.ts";
import type { Pen } from "../chart/pen.ts";
import { cut } from "../names.ts";

export interface Drawn {
  name: string;
  kind: string;
  value: string;
  top: number; // px
  height: number;
  paint: { ground: string; ink: string } | null; // null: no colour
  isSmall: boolean; // without parameters
}

export function paintSpine(pen: Pen, nodes: readonly Drawn[], width: number): void {
  const letters = Math.floor((width - 90) / 7);
  for (const { name, kind, value, top, height, paint, isSmall } of nodes) {
    const middle = top + height / 2;
    if (isSmall) {
      write(pen, cut(name ? `${name} ${kind}` : kind, letters), width / 2, middle, { align: "center" });
      continue;
    }
    pen.fillStyle = paint?.ground ?? token("surface");
    pen.fillRect(0, top, width, height);
    pen.strokeStyle = token("line-2");
    pen.lineWidth = 1;
    pen.strokeRect(0.5, top + 0.5, width - 1, height - 1);
    const colour = paint?.ink ?? token("ink-2");
    const wide = write(pen, cut(name, 24), 10, middle, { mono: true, size: 12, weight: 600, colour });
    write(pen, cut(kind, Math.max(4, letters - 24)), 18 + wide, middle, { size: 12, colour });
    write(pen, value, width - 10, middle, { size: 12, align: "right", colour });
  }
}
