// Pointer to prompt: clicks, box, brush, eraser, lasso and pan.
import { inFilm, over, scale } from "./geometry";
import { drawMarks, width } from "./marks";
import { send } from "./socket";
import { by, state, type Tool, TOOLS } from "./state";
import type { Point } from "./types";
import { draw } from "./view";

// Where the pointer went down, in the film; or, while panning, the shift that belongs to the page's corner.
let drag: Point | null = null, panning = false;
const unanswered = new Set<number>();
let closing = false;
// A click waits for its object, which is being made.
let unmade = false;

export const isClosing = () => closing;

export function choose(name: Tool) {
  state.tool = name;
  for (const button of by("tools").querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.tool === name));
  over.style.cursor = name === "pan" ? "grab" : "crosshair";
  state.box = null;
  drawMarks();
}

// Forget what is shown and drawn here; panning goes on.
export function letGo() {
  Object.assign(state, { clicks: [], box: null, stroke: [], legs: [] });
  unanswered.clear();
  if (!panning) drag = null;
  closing = unmade = false;
  drawMarks();
}

const takesAway = (event: PointerEvent) => event.button === 2 || event.altKey;

function down(event: PointerEvent) {
  const { film, tool } = state, at = inFilm(event);
  over.setPointerCapture(event.pointerId);
  if (tool === "pan" || event.button === 1) {
    drag = [event.offsetX - state.shift[0], event.offsetY - state.shift[1]];
    panning = true;
    return;
  }
  if (!film || !state.works || state.busy || closing) return;
  if (!state.chosen) send("add");
  if (tool === "click") {
    if (at[0] < 0 || at[1] < 0 || at[0] >= film.size[0] || at[1] >= film.size[1]) return;
    state.clicks.push([at[0], at[1], !takesAway(event)]);
    if (state.chosen) prompt(); else unmade = true;
  } else {
    drag = at;
    state.erasing = tool === "erase" || takesAway(event);
    state.stroke = tool === "box" || tool === "lasso" ? [] : [at];
    state.legs = tool === "lasso" ? [[at]] : [];
  }
  drawMarks(at);
}

function move(event: PointerEvent) {
  const at = inFilm(event);
  if (panning && drag) {
    state.shift = [event.offsetX - drag[0], event.offsetY - drag[1]];
    return draw();
  }
  if (!drag) return drawMarks(at);
  if (state.tool === "box") state.box = [Math.min(drag[0], at[0]), Math.min(drag[1], at[1]), Math.max(drag[0], at[0]), Math.max(drag[1], at[1])];
  else if (state.tool === "lasso") {
    const leg = state.legs.at(-1)!, first = leg[0]!;
    leg.push(at);
    if (Math.hypot(at[0] - first[0], at[1] - first[1]) > 40 / scale()) { ask(first, at); state.legs.push([at]); }
  } else state.stroke.push(at);
  drawMarks(at);
}

function up(event: PointerEvent) {
  if (!drag) return;
  drag = null;
  if (panning) { panning = false; return; }
  const { tool, stroke, legs } = state;
  if (tool === "box" && state.box) { state.clicks = []; if (state.chosen) prompt(); else unmade = true; }
  else if (tool === "lasso") {
    const last = legs.at(-1)!;
    last.push(inFilm(event));
    closing = true;
    ask(last[0]!, legs[0]![0]!);
  } else if (stroke.length) {
    state.clicks = [];
    state.sentAt = performance.now();
    send("paint", { object: state.chosen, points: stroke, width: width(), mode: state.erasing ? "erase" : "paint" });
  }
  drawMarks();
}

// The object is there that was made for a click.
export function made() {
  if (unmade) prompt();
  unmade = false;
}

// What was drawn is in the masks now, or was refused.
export function drawn() {
  if (drag) return;
  state.stroke = [];
}

function prompt() {
  state.sentAt = performance.now();
  send("click", { object: state.chosen, clicks: state.clicks, box: state.box });
}

function ask(start: Point, end: Point) {
  const leg = state.legs.length - 1;
  unanswered.add(leg);
  send("contour", { leg, start, end });
}

export function snapped(leg: number, points: Point[]) {
  if (!unanswered.delete(leg)) return;
  state.legs[leg] = points;
  if (closing && !unanswered.size) fill(); else drawMarks();
}

// Close the lasso, as it is.
export function fill() {
  const points = state.legs.flat();
  letGo();
  state.sentAt = performance.now();
  send("paint", { object: state.chosen, points, mode: "fill" });
}

for (const [name, title] of Object.entries(TOOLS)) {
  const button = Object.assign(document.createElement("button"), { textContent: title });
  button.dataset.tool = name;
  button.onclick = () => choose(name as Tool);
  by("size").parentElement!.before(button);
}
over.onpointerdown = down;
over.onpointermove = move;
over.onpointerup = up;
over.onpointercancel = () => { panning = false; letGo(); };
over.onpointerleave = () => { if (!drag) drawMarks(); };
over.oncontextmenu = (event) => event.preventDefault();
