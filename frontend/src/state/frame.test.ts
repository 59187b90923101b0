import assert from "node:assert/strict";
import { test } from "node:test";

import { themeAround } from "./frame.ts";

const body = (dataset: DOMStringMap, ...classes: string[]) => ({ dataset, classList: { contains: (name: string) => classes.includes(name) } });

test("light or dark is taken from the notebook around", () => {
  assert.equal(themeAround(body({ jpThemeLight: "false" })), "dark");
  assert.equal(themeAround(body({ jpThemeLight: "true" })), "light");
  assert.equal(themeAround(body({}, "vscode-dark")), "dark");
  assert.equal(themeAround(body({}, "vscode-light")), "light");
  assert.equal(themeAround(body({})), null);
});
