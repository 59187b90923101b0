// The page inside another one: in the output of a notebook's cell.

/** The frame that the page is shown in; null where it is a page of its own or may not look out. */
export function frameAround(): HTMLElement | null {
  try {
    return parent === window ? null : (frameElement as HTMLElement | null);
  } catch {
    return null; // a page of somewhere else is around
  }
}

/** As high as what it shows; the picture that stood there for readers without scripts goes. */
export function fitFrame(page: HTMLElement): void {
  const frame = frameAround();
  if (!frame) return;
  for (const picture of frame.parentElement?.querySelectorAll<HTMLElement>(":scope > .weighbridge-still") ?? []) picture.hidden = true;
  frame.hidden = false;
  page.style.display = "flow-root"; // margins of what is in it count
  new ResizeObserver(() => (frame.style.height = `${Math.ceil(page.getBoundingClientRect().height)}px`)).observe(page);
}

/** Light or dark as JupyterLab, a page made of a notebook, or VS Code say it of themselves; null where nothing is said. */
export function themeAround(body: { dataset: DOMStringMap; classList: { contains(name: string): boolean } }): "light" | "dark" | null {
  const { jpThemeLight } = body.dataset;
  if (jpThemeLight) return jpThemeLight === "false" ? "dark" : "light";
  if (body.classList.contains("vscode-dark") || body.classList.contains("vscode-high-contrast")) return "dark";
  return body.classList.contains("vscode-light") ? "light" : null;
}
