// A weight and its bias are one pair: shown side by side, told apart by letter, mark and colour.
import type { Tensor } from "./api.ts";

export type Side = "weight" | "bias" | "other";

export interface Pair {
  key: string; // what both names share
  title: string;
  module: string;
  members: Tensor[]; // weight first
}

/** Does the tensor belong to the weights' side or to the biases'? Scales go with the weights, shifts with the biases. */
export function side(tensor: Pick<Tensor, "role">): Side {
  if (tensor.role === "weight" || tensor.role === "norm_scale" || tensor.role === "embedding") return "weight";
  return tensor.role === "bias" || tensor.role === "norm_shift" ? "bias" : "other";
}

/** The letter beside the mark. */
export function letter(tensor: Pick<Tensor, "role">): string {
  return { weight: "W", bias: "b", norm_scale: "γ", norm_shift: "β", embedding: "E" }[tensor.role] ?? "p";
}

/** "0.weight" and "0.bias" are one pair; so are "rnn.weight_ih_l0" and "rnn.bias_ih_l0". The order of first members holds. */
export function pairs(tensors: readonly Tensor[]): Pair[] {
  const found = new Map<string, Pair>();
  for (const tensor of tensors) {
    const dot = tensor.name.lastIndexOf(".");
    const owner = dot < 0 ? "" : tensor.name.slice(0, dot);
    const rest = tensor.name.slice(dot + 1).replace(/weight|bias/, "");
    const alone = side(tensor) === "other" ? tensor.name : "";
    const key = `${tensor.model}\0${owner}\0${rest}\0${alone}`;
    const pair = found.get(key);
    if (pair) pair.members.push(tensor);
    else found.set(key, { key, title: alone || owner + rest || tensor.name, module: tensor.module, members: [tensor] });
  }
  for (const pair of found.values()) pair.members.sort((a, b) => rank(a) - rank(b));
  return [...found.values()];
}

function rank(tensor: Tensor): number {
  return { weight: 0, bias: 1, other: 2 }[side(tensor)];
}

/** 16 × 3 × 3 × 3; "one value" for a scalar. */
export function shape(of: readonly number[]): string {
  return of.length === 0 ? "one value" : of.join(" × ");
}

/** Of a layer's weight what comes in and what goes out: 64 → 32; of other shapes the shape. */
export function flow(kind: string, of: readonly number[]): string {
  return of.length === 2 ? (kind.includes("Embedding") ? of : of.toReversed()).join(" → ") : shape(of);
}

/** Cut in the middle, where names differ least: blocks.17.…proj.weight. */
export function cut(name: string, length: number): string {
  if (name.length <= length) return name;
  const end = Math.ceil((length - 1) * 0.55);
  return name.slice(0, length - 1 - end) + "…" + name.slice(name.length - end);
}

/**
 * The name of a tensor or module that is too long: its outer parts by their first letters, as far as needed, so that rows of one
 * network stay apart by their depth: t.e.blocks.17.attention.proj. Equal ones are counted; what is still too long is cut in the
 * middle.
 */
export function brief(name: string, length: number): string {
  const parts = name.split(".");
  for (let i = 0; i < parts.length - 1 && parts.join(".").length > length; i++) if (!/\d/.test(parts[i]!)) parts[i] = parts[i]!.slice(0, 1);
  const short = parts.join(".");
  return cut(short.length > length ? counted(parts).join(".") : short, length);
}

/** Three and more equal parts in a row are one with their number: i×9. */
function counted(parts: readonly string[]): string[] {
  const found: [string, number][] = [];
  for (const part of parts) {
    const last = found.at(-1);
    if (last && last[0] === part) last[1]++;
    else found.push([part, 1]);
  }
  return found.flatMap(([part, times]) => (times > 2 ? [`${part}×${times}`] : Array<string>(times).fill(part)));
}

/** Do all the words occur in the text, in any order? */
export function matches(text: string, words: string): boolean {
  const low = text.toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => low.includes(word));
}
