import "uplot/dist/uPlot.min.css";
import "./tokens.css";
import "./base.css";

import { mount } from "svelte";

import App from "./App.svelte";
import { fitFrame } from "./state/frame.ts";
import { startTheme } from "./state/theme.svelte.ts";

startTheme();
const target = document.getElementById("page");
if (target) {
  mount(App, { target });
  fitFrame(target);
}
