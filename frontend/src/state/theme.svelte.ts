// Light or dark: what the reader chose here before, else what the system says.
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
  apply(remembered() ?? (system.matches ? "dark" : "light"));
  system.addEventListener("change", () => {
    if (!remembered()) apply(system.matches ? "dark" : "light");
  });
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
