// The loss of one run, small: a line between zero and the upper edge that all rows share.
import { hair, token } from "./canvas.ts";
import type { Pen } from "./pen.ts";

export interface Spark {
  steps: readonly number[];
  values: readonly number[]; // NaN where nothing was finite
  top: number; // value at the upper edge
  end: number; // steps at the right edge
  guess: number | null; // loss of a predictor that knows nothing
  ending: "live" | "died" | "";
}

const ROOM = 3; // px above the highest value

export interface Place {
  left: number; // px
  up: number;
  width: number;
  height: number;
}

export function paintSpark(pen: Pen, { steps, values, top, end, guess, ending }: Spark, { left, up, width, height }: Place): void {
  const [foot, roof] = [up + height - 2, up + ROOM];
  const X = (step: number): number => left + 4 + (step / Math.max(1, end - 1)) * (width - 8); // a dot has its room at both ends
  const Y = (value: number): number => foot - (Math.min(Math.max(value, 0), top) / top) * (foot - roof);
  hair(pen, left, foot, left + width, foot, token("line"));
  if (guess !== null && guess <= top) hair(pen, left, Y(guess), left + width, Y(guess), token("ink-3"), [1, 3]);
  if (ending === "died") hatched(pen, X(steps.at(-1) ?? 0) + 2, roof, left + width, foot);
  pen.strokeStyle = pen.fillStyle = token("weight");
  pen.lineWidth = 1.5;
  pen.beginPath();
  let before: [number, number] | null = null;
  let last: [number, number] | null = null;
  values.forEach((value, i) => {
    const here: [number, number] | null = Number.isFinite(value) ? [X(steps[i]!), Y(value)] : null;
    if (here) {
      if (before) pen.lineTo(...here);
      else pen.moveTo(...here);
      last = here;
    }
    before = here;
  });
  pen.stroke();
  if (last && (ending === "live" || values.length === 1)) dot(pen, last);
  const bad = values.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) broken(pen, X(steps[bad]!), X(steps.at(-1)!), Math.min(roof + 3, foot));
}

function dot(pen: Pen, [x, y]: [number, number]): void {
  pen.beginPath();
  pen.arc(x, y, 3, 0, 7);
  pen.fill();
}

/** NaN: a solid mark where it began, small crosses from there on. */
function broken(pen: Pen, from: number, to: number, y: number): void {
  pen.fillStyle = pen.strokeStyle = token("trouble");
  pen.fillRect(from - 2, y - 3, 6, 6);
  pen.lineWidth = 1;
  pen.globalAlpha = 0.7;
  pen.beginPath();
  for (let x = from + 7; x <= to; x += 6) {
    pen.moveTo(x - 2, y - 2);
    pen.lineTo(x + 2, y + 2);
    pen.moveTo(x + 2, y - 2);
    pen.lineTo(x - 2, y + 2);
  }
  pen.stroke();
  pen.globalAlpha = 1;
}

/** Steps that never came. */
function hatched(pen: Pen, left: number, up: number, right: number, foot: number): void {
  if (right - left < 3) return;
  pen.save();
  pen.beginPath();
  pen.rect(left, up, right - left, foot - up);
  pen.clip();
  pen.strokeStyle = token("hatch");
  pen.lineWidth = 1;
  pen.beginPath();
  for (let x = left - (foot - up); x < right; x += 4) {
    pen.moveTo(x, foot);
    pen.lineTo(x + (foot - up), up);
  }
  pen.stroke();
  pen.restore();
}
