import "uplot/dist/uPlot.min.css";
import "./tokens.css";
import "./base.css";

import { mount } from "svelte";

import App from "./App.svelte";
import { fitFrame } from "./state/frame.ts";
import { startPaper } from "./state/paper.svelte.ts";
import { startTheme } from "./state/theme.svelte.ts";

startTheme();
startPaper();
const target = document.getElementById("page");
if (target) {
  mount(App, { target });
  fitFrame(target);
}
