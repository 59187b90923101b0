// What a notebook loads (anywidget): the page in a frame of its own, so that its styles and keys and those of the notebook do not
// meet. The kernel sends answers; they are handed to the page, and kept for a second view of the same cell.
interface Model {
  get(name: "page" | "answers" | "name"): unknown;
  on(event: "msg:custom", call: (message: { weighbridge?: Answers }) => void): void;
  off(event: "msg:custom", call: (message: { weighbridge?: Answers }) => void): void;
}
type Answers = Record<string, string>;

const ROOM = "640px"; // until the page has said how high it is

function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  const frame = document.createElement("iframe");
  Object.assign(frame.style, { width: "100%", height: ROOM, border: "0" });
  frame.title = "weighbridge";
  const held = model.get("answers") as Answers;
  const send = (answers: Answers): void => frame.contentWindow?.postMessage({ weighbridge: answers }, "*");
  const asked = (event: MessageEvent<{ weighbridge?: unknown }>): void => {
    if (event.source === frame.contentWindow && event.data?.weighbridge === "ready") send(held);
  };
  const told = (message: { weighbridge?: Answers }): void => {
    if (!message.weighbridge) return;
    Object.assign(held, message.weighbridge);
    send(message.weighbridge);
  };
  // While the page lives, the picture that is kept for later stays out of sight.
  const hiding = document.createElement("style");
  hiding.textContent = `.weighbridge-later-${String(model.get("name"))} { display: none !important }`;
  addEventListener("message", asked);
  model.on("msg:custom", told);
  frame.srcdoc = model.get("page") as string;
  el.append(hiding, frame);
  return () => {
    removeEventListener("message", asked);
    model.off("msg:custom", told);
  };
}

export default { render };
