// Colour scales of 65 stops in equal steps of OKLab. "water" for magnitudes: dark is small in both themes, and none of it is
// warm, so that trouble is seen from across the room. "signed" for values around zero.
import type { Theme } from "../state/theme.svelte.ts";

const WATER =
  "14103216123718153c1a17411b1a461d1d4c1e20511f235720265c212962222c6723306c233471233776233b7b22407f2144832048871e4c8b1d518e1b5591195a94165e9814629b11679e0d6ba00970a30474a50779a7047da90182ab0986ac098aad0b8faf0293b10798b2019cb30ba1b415a5b51da9b525adb52db1b634b5b63cb9b645bdb64dc1b656c5b55fc8b568cbb471cfb37ad2b384d5b28dd7b297dab1a1dcb2aadfb2b3e1b3bbe3b4c4e6b6cde8b9d5ebbcdcedbfe4f0c3ebf3c7f0f4ca";
const SIGNED_LIGHT =
  "833a08893f0d8f44119449169a4e1aa0531ea65822ac5d25b26229b8672dbe6c31c37135c8773acd7d40d08448d38a50d59159d69862d89e6bdaa574dcab7ddeb286e0b890e2bf99e4c5a2e6cbace8d1b5ead7bfecddc9efe3d2f1e9dcf4efe6eff4f8e6eff7ddebf5d4e6f3cbe1f1c2dcf0b9d7eeb1d2eca8cdea9fc8e896c3e78ebee585b9e37cb4e173afdf6aaadd61a4db589fd8509ad54994d2438ecd3f88c83b82c3367dbe3377b92f71b42b6baf2766aa2460a5205aa01d549b1a4f96184b92";
const SIGNED_DARK =
  "f7bf7df2b877edb171e8aa6be3a465de9d5fd99659d49053cf894ec98248c47c43bf753eba6f38b46934ad6431a55f2f9d5b2e95582d8d542c84502c7c4d2b74492a6c462a6542295d3e28553b274e37264734253f3024382c233129222a252121232623282d252c3526313c2836442a3b4c2c40552d455d2f4a65304e6e31547633597f345e8835639136689a376da23973ab3c79b23f7fb94485bf498bc34f91c85498cc5a9ed160a4d566aada6cb1de72b7e378bde87ec4ec85caf18cd0f591d5f9";

export type Rgb = readonly [red: number, green: number, blue: number];

const STOPS = 256; // of a ramp: finer than the eye, so that a cell is one look-up

/** A scale as 256 colours, three bytes each. */
export function ramp(scale: string, theme: Theme): Uint8Array {
  const around = scale === "signed" || isVersus(scale);
  const text = around ? (theme === "dark" ? SIGNED_DARK : SIGNED_LIGHT) : WATER;
  const stops = text.match(/.{6}/g)!.map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  if (isVersus(scale)) stops.reverse(); // blue where the first run is larger, as the first run is blue
  const found = new Uint8Array(STOPS * 3);
  for (let i = 0; i < STOPS; i++) {
    const at = (i / (STOPS - 1)) * (stops.length - 1);
    const low = Math.min(stops.length - 2, Math.floor(at));
    for (let k = 0; k < 3; k++) found[3 * i + k] = Math.round(stops[low]![k]! + (stops[low + 1]![k]! - stops[low]![k]!) * (at - low));
  }
  return found;
}

/** Two runs: "versus" is a logarithm of the second over the first, "less" the second less the first. */
export function isVersus(scale: string): boolean {
  return scale === "versus" || scale === "less";
}

/** The colour at a place between 0 and 1. */
export function colourAt(of: Uint8Array, place: number): Rgb {
  const i = 3 * Math.max(0, Math.min(STOPS - 1, Math.round(place * (STOPS - 1))));
  return [of[i]!, of[i + 1]!, of[i + 2]!];
}

/** Where a value lies in the range of colours: 0 to 1, beyond them where it lies outside. */
export function placeOf(value: number, domain: readonly [number, number], scale: string): number {
  if (scale !== "log") return (value - domain[0]) / (domain[1] - domain[0]);
  const [low, high] = [Math.log(domain[0]), Math.log(domain[1])];
  return (Math.log(value) - low) / (high - low);
}

/** Black or white, whichever is read more easily on this colour: one of them always keeps 4.5 to 1. */
export function inkOn([red, green, blue]: Rgb): string {
  const linear = [red, green, blue].map((c) => ((c / 255) <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  const light = 0.2126 * linear[0]! + 0.7152 * linear[1]! + 0.0722 * linear[2]!;
  return 1.05 / (light + 0.05) > (light + 0.05) / 0.05 ? "#fff" : "#000";
}
