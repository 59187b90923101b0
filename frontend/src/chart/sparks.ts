// Small losses as one picture: a row for each run, or each rank, as on the page.
import { brief } from "../names.ts";
import { short } from "../numbers.ts";
import { token, write } from "./canvas.ts";
import type { Exportable, Table } from "./export.ts";
import type { Pen } from "./pen.ts";
import { paintSpark, type Spark } from "./spark.ts";

const [NAMES, WIDE, TALL, EACH, NUMBER] = [220, 360, 38, 46, 70]; // px

export interface NamedSpark extends Omit<Spark, "top"> {
  name: string;
  last: number | null; // the last loss; null: there is none
}

/** `who`: what a row is, the table's first column. */
export function sparksOf(title: string, who: string, rows: readonly NamedSpark[], top: number): Exportable {
  const draw = (pen: Pen): void => rows.forEach((row, i) => line(pen, row, i * EACH));
  return { name: `${title}, 0 to ${short(top, 2)}`, width: NAMES + WIDE + NUMBER, height: Math.max(EACH, rows.length * EACH), draw, table };

  function line(pen: Pen, row: NamedSpark, y: number): void {
    write(pen, brief(row.name, 32), 0, y + TALL / 2, { size: 12, colour: token("ink") });
    write(pen, row.last === null ? "none" : short(row.last), NAMES + WIDE + NUMBER, y + TALL / 2, { align: "right", colour: token("ink-2") });
    paintSpark(pen, { ...row, top }, { left: NAMES, up: y, width: WIDE, height: TALL });
  }

  function table(): Table {
    const points = rows.flatMap((row) => row.steps.map((step, i): [string, number, number] => [row.name, step, row.values[i]!]));
    return { columns: [who, "step", "mean loss around it"], rows: points };
  }
}

/** How a line ends, by the state of who drew it. */
export function endingOf(state: string): Spark["ending"] {
  return state === "live" ? "live" : state === "ended without finish" ? "died" : "";
}
