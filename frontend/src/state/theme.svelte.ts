// Light or dark: what the reader chose here before, else what the page around says, else what the system says.
import { frameAround, themeAround } from "./frame.ts";

export type Theme = "light" | "dark";

const KEY = "weighbridge-theme";
let current = $state<Theme>("light");

export const theme = {
  get current(): Theme {
    return current;
  },
};

export function startTheme(): void {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const around = frameAround()?.ownerDocument.body;
  const usual = (): Theme => remembered() ?? (around ? themeAround(around) : null) ?? (system.matches ? "dark" : "light");
  apply(usual());
  system.addEventListener("change", () => apply(usual()));
  addEventListener("beforeprint", () => apply("light")); // paper is white
  addEventListener("afterprint", () => apply(usual()));
  if (around) new MutationObserver(() => apply(usual())).observe(around, { attributes: true, attributeFilter: ["class", "data-jp-theme-light"] });
}

export function switchTheme(): void {
  apply(current === "dark" ? "light" : "dark");
  try {
    localStorage.setItem(KEY, current);
  } catch {
    // private windows may refuse storage; the theme then holds for this page only
  }
}

function remembered(): Theme | null {
  try {
    const word = localStorage.getItem(KEY);
    return word === "light" || word === "dark" ? word : null;
  } catch {
    return null;
  }
}

function apply(to: Theme): void {
  current = to;
  document.documentElement.dataset.theme = to;
}
