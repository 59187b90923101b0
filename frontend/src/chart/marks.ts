// What cannot lie on the axis is drawn on its foot: an × where something was NaN or infinite, a ring for exact zeros on
// a log axis. A run of neighbours is one line with its mark at the start: that moment matters.
// A statistic that is no number though all elements are (0 / 0, an update over a bias that is still 0) is no trouble.
import type uPlot from "uplot";

import type { Line } from "../api.ts";
import type { ScaleKind } from "./scale.ts";

export function drawFootMarks(plot: uPlot, line: Line, at: (step: number) => number, kind: ScaleKind, trouble: string, zero: string, ground: string): void {
  let before: "" | "bad" | "zero" = "";
  for (let i = 0; i < line.mean.length; i++) {
    const value = line.mean[i]!;
    const what = line.bad[i]! > 0 ? "bad" : kind === "log" && value === 0 ? "zero" : "";
    if (what !== "") {
      const x = plot.valToPos(at(middle(line, i)), "x", true);
      const from = what === before ? plot.valToPos(at(middle(line, i - 1)), "x", true) : x;
      drawOne(plot, what, x, from, what !== before, what === "bad" ? trouble : zero, ground);
    }
    before = what;
  }
}

function drawOne(plot: uPlot, what: "bad" | "zero", x: number, from: number, isFirst: boolean, colour: string, ground: string): void {
  const { ctx, bbox } = plot;
  const ratio = devicePixelRatio || 1;
  if (x < bbox.left - 1 || x > bbox.left + bbox.width + 1) return;
  const foot = bbox.top + bbox.height;
  const radius = 3.5 * ratio;
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.lineWidth = 1.5 * ratio;
  if (!isFirst) {
    ctx.globalAlpha = 0.55;
    ctx.beginPath();
    ctx.moveTo(Math.max(from, bbox.left), foot - 1 * ratio);
    ctx.lineTo(x, foot - 1 * ratio);
    ctx.stroke();
  } else {
    ctx.beginPath();
    if (what === "bad") {
      ctx.moveTo(x - radius, foot - radius);
      ctx.lineTo(x + radius, foot + radius);
      ctx.moveTo(x + radius, foot - radius);
      ctx.lineTo(x - radius, foot + radius);
    } else {
      ctx.fillStyle = ground;
      ctx.arc(x, foot, radius, 0, 7);
      ctx.fill();
    }
    ctx.stroke();
  }
  ctx.restore();
}

/** The step at which a bucket stands: its middle. */
export function middle(line: Line, i: number): number {
  return (line.first[i]! + line.last[i]!) / 2;
}
