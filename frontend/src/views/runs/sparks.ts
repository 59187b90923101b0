// The losses of the list as one picture: a row for each run that was read, as on the page.
import { token, write } from "../../chart/canvas.ts";
import type { Exportable, Table } from "../../chart/export.ts";
import type { Pen } from "../../chart/pen.ts";
import { paintSpark } from "../../chart/spark.ts";
import { brief } from "../../names.ts";
import { short } from "../../numbers.ts";
import type { Row } from "./runs.ts";

const [NAMES, WIDE, TALL, EACH, NUMBER] = [220, 360, 38, 46, 70]; // px

export function sparksOf(rows: readonly Row[], top: number, steps: number): Exportable {
  const read = rows.filter((row) => row.state !== "unreadable" && row.state !== "unread");
  const draw = (pen: Pen): void => read.forEach((row, i) => line(pen, row, i * EACH));
  return { name: `training losses, 0 to ${short(top, 2)}`, width: NAMES + WIDE + NUMBER, height: Math.max(EACH, read.length * EACH), draw, table };

  function line(pen: Pen, row: Row, y: number): void {
    write(pen, brief(row.name, 32), 0, y + TALL / 2, { size: 12, colour: token("ink") });
    write(pen, row.last_loss === null ? "none" : short(row.last_loss), NAMES + WIDE + NUMBER, y + TALL / 2, { align: "right", colour: token("ink-2") });
    const ending = row.state === "live" ? "live" : row.state === "ended without finish" ? "died" : "";
    paintSpark(pen, { steps: row.loss[0], values: row.loss[1], top, end: steps || row.steps, guess: row.guess, ending }, { left: NAMES, up: y, width: WIDE, height: TALL });
  }

  function table(): Table {
    const points = read.flatMap((row) => row.loss[0].map((step, i): [string, number, number] => [row.name, step, row.loss[1][i]!]));
    return { columns: ["run", "step", "mean loss around it"], rows: points };
  }
}
