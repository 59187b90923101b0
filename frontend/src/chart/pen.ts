// What all pictures are drawn with: the part of a canvas pen that they use, and a second pen of the same kind that writes SVG. One
// drawing serves the page, a PNG and an SVG, and the compiler sees to it that none uses what the second pen cannot do.
export type Pen = Pick<
  CanvasRenderingContext2D,
  | "save" | "restore" | "beginPath" | "moveTo" | "lineTo" | "closePath" | "arc" | "rect" | "clip" | "fill" | "stroke"
  | "fillRect" | "strokeRect" | "fillText" | "measureText" | "drawImage" | "setLineDash"
  | "font" | "fillStyle" | "strokeStyle" | "lineWidth" | "lineJoin" | "globalAlpha" | "textAlign" | "textBaseline"
>;

type Ink = string | CanvasGradient | CanvasPattern;
interface Look {
  font: string;
  fillStyle: Ink;
  strokeStyle: Ink;
  lineWidth: number;
  lineJoin: CanvasLineJoin;
  globalAlpha: number;
  textAlign: CanvasTextAlign;
  textBaseline: CanvasTextBaseline;
  dash: number[];
  groups: number; // opened by clip() since the last save()
}

const ANCHORS: Record<string, string> = { left: "start", start: "start", center: "middle", right: "end", end: "end" };
const tidy = (value: number): string => String(Math.round(value * 100) / 100);

export class SvgPen implements Pen {
  font = "400 11px sans-serif";
  fillStyle: Ink = "#000000";
  strokeStyle: Ink = "#000000";
  lineWidth = 1;
  lineJoin: CanvasLineJoin = "miter";
  globalAlpha = 1;
  textAlign: CanvasTextAlign = "left";
  textBaseline: CanvasTextBaseline = "alphabetic";

  private dash: number[] = [];
  private groups = 0;
  private path = "";
  private clips = 0;
  private readonly kept: Look[] = [];
  private readonly parts: string[] = [];
  private readonly ruler: CanvasRenderingContext2D | null;

  /** `ruler` measures text; without one no text is measured. */
  constructor(ruler: CanvasRenderingContext2D | null = null) {
    this.ruler = ruler;
  }

  /** The whole picture, width x height px. */
  done(width: number, height: number, title: string, about: string): string {
    const open = "</g>".repeat(this.groups + this.kept.reduce((sum, look) => sum + look.groups, 0));
    return (
      `<svg xmlns="http://www.w3.org/2000/svg" width="${tidy(width)}" height="${tidy(height)}" viewBox="0 0 ${tidy(width)} ${tidy(height)}">` +
      `<title>${escaped(title)}</title><desc>${escaped(about)}</desc>${this.parts.join("")}${open}</svg>\n`
    );
  }

  /** All that follows stands x to the right and y further down. */
  move(x: number, y: number): void {
    this.parts.push(`<g transform="translate(${tidy(x)} ${tidy(y)})">`);
    this.groups++;
  }

  save(): void {
    const { font, fillStyle, strokeStyle, lineWidth, lineJoin, globalAlpha, textAlign, textBaseline, dash, groups } = this;
    this.kept.push({ font, fillStyle, strokeStyle, lineWidth, lineJoin, globalAlpha, textAlign, textBaseline, dash, groups });
    this.groups = 0;
  }
  restore(): void {
    const look = this.kept.pop();
    if (!look) return;
    this.parts.push("</g>".repeat(this.groups));
    Object.assign(this, look);
  }

  beginPath(): void {
    this.path = "";
  }
  moveTo(x: number, y: number): void {
    this.path += `M${tidy(x)} ${tidy(y)}`;
  }
  lineTo(x: number, y: number): void {
    this.path += `${this.path ? "L" : "M"}${tidy(x)} ${tidy(y)}`;
  }
  closePath(): void {
    this.path += "Z";
  }
  rect(x: number, y: number, width: number, height: number): void {
    this.path += `M${tidy(x)} ${tidy(y)}h${tidy(width)}v${tidy(height)}h${tidy(-width)}Z`;
  }
  /** Whole circles only: no picture has another arc. */
  arc(x: number, y: number, radius: number): void {
    const [r, way] = [tidy(radius), tidy(2 * radius)];
    this.path += `M${tidy(x - radius)} ${tidy(y)}a${r} ${r} 0 1 0 ${way} 0a${r} ${r} 0 1 0 -${way} 0Z`;
  }
  clip(): void {
    const id = `clip${this.clips++}`;
    this.parts.push(`<clipPath id="${id}"><path d="${this.path}"/></clipPath><g clip-path="url(#${id})">`);
    this.groups++;
  }
  fill(): void {
    if (this.path) this.parts.push(`<path d="${this.path}" ${this.inkOf("fill", this.fillStyle)}/>`);
  }
  stroke(): void {
    if (this.path) this.parts.push(`<path d="${this.path}" fill="none" ${this.strokeLook()}/>`);
  }
  fillRect(x: number, y: number, width: number, height: number): void {
    this.parts.push(`<rect ${this.box(x, y, width, height)} ${this.inkOf("fill", this.fillStyle)}/>`);
  }
  strokeRect(x: number, y: number, width: number, height: number): void {
    this.parts.push(`<rect ${this.box(x, y, width, height)} fill="none" ${this.strokeLook()}/>`);
  }
  setLineDash(dash: number[]): void {
    this.dash = [...dash];
  }

  fillText(text: string, x: number, y: number): void {
    const [, weight = "400", size = "11", family = "sans-serif"] = /^(\S+) ([\d.]+)px (.*)$/.exec(this.font) ?? [];
    const middle = this.textBaseline === "middle" ? ` dy="0.35em"` : "";
    this.parts.push(
      `<text x="${tidy(x)}" y="${tidy(y)}"${middle} text-anchor="${ANCHORS[this.textAlign] ?? "start"}" font-family="${escaped(family)}" ` +
        `font-size="${size}" font-weight="${weight}" ${this.inkOf("fill", this.fillStyle)}>${escaped(text)}</text>`,
    );
  }
  measureText(text: string): TextMetrics {
    if (!this.ruler) return { width: 0 } as TextMetrics;
    this.ruler.font = this.font;
    return this.ruler.measureText(text);
  }

  /** Pixels, for pictures of more cells than anybody wants as shapes. */
  drawImage(image: CanvasImageSource, x: number, y: number, width = 0, height = 0): void {
    const content = (image as HTMLCanvasElement).toDataURL("image/png");
    this.parts.push(`<image ${this.box(x, y, width, height)} preserveAspectRatio="none" href="${content}"/>`);
  }

  private box(x: number, y: number, width: number, height: number): string {
    const [left, top] = [Math.min(x, x + width), Math.min(y, y + height)];
    return `x="${tidy(left)}" y="${tidy(top)}" width="${tidy(Math.abs(width))}" height="${tidy(Math.abs(height))}"`;
  }
  private strokeLook(): string {
    const dash = this.dash.length ? ` stroke-dasharray="${this.dash.join(" ")}"` : "";
    const join = this.lineJoin === "miter" ? "" : ` stroke-linejoin="${this.lineJoin}"`;
    return `${this.inkOf("stroke", this.strokeStyle)} stroke-width="${tidy(this.lineWidth)}"${join}${dash}`;
  }
  /** #rrggbbaa becomes a colour and an opacity: not every program reads eight digits. */
  private inkOf(what: "fill" | "stroke", ink: Ink): string {
    const text = typeof ink === "string" ? ink : "none";
    const [, solid, alpha] = /^(#[0-9a-f]{6})([0-9a-f]{2})$/i.exec(text) ?? [];
    const opacity = this.globalAlpha * (alpha ? parseInt(alpha, 16) / 255 : 1);
    return `${what}="${escaped(solid ?? text)}"${opacity < 1 ? ` ${what}-opacity="${tidy(opacity)}"` : ""}`;
  }
}

export function escaped(text: string): string {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/"/g, "&quot;");
}
