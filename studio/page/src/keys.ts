// The keyboard.
import { play, seek } from "./frames";
import { magnify } from "./geometry";
import { resize } from "./marks";
import { showMasks } from "./masks";
import { select } from "./objects";
import { send } from "./socket";
import { by, state } from "./state";
import { choose, letGo } from "./tools";
import { draw } from "./view";

const zoom = (times: number) => { magnify(times); draw(); };
const KEYS: Record<string, (shift: boolean) => void> = {
  arrowright: (shift) => seek(state.frame + (shift ? 10 : 1)), arrowleft: (shift) => seek(state.frame - (shift ? 10 : 1)),
  home: () => seek(0), end: () => seek((state.film?.count ?? 1) - 1), " ": play,
  t: () => by("track").click(), r: () => by("back").click(), escape: () => state.busy ? by("stop").click() : letGo(), n: () => by("add").click(),
  c: () => choose("click"), x: () => choose("box"), b: () => choose("brush"), e: () => choose("erase"),
  l: () => choose("lasso"), p: () => choose("pan"), "[": () => resize(0.8), "]": () => resize(1.25),
  "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), "0": () => zoom(0),
  m: showMasks,
};
for (let k = 1; k <= 9; k++) KEYS[k] = () => { const item = state.film?.project.objects[k - 1]; if (item) select(item.id); };

addEventListener("keydown", (event) => {
  if ((event.target as HTMLElement).matches("input, select")) return;
  const key = event.key.toLowerCase(), control = event.ctrlKey || event.metaKey;
  const action = control ? key === "z" && (() => send(event.shiftKey ? "redo" : "undo")) : !event.altKey && KEYS[key];
  if (!action) return;
  action(event.shiftKey);
  event.preventDefault();
});
// What was set or pressed gives the keys back to the film.
addEventListener("click", (event) => { if (event.detail) (event.target as HTMLElement).closest("button")?.blur(); });
addEventListener("change", (event) => (event.target as HTMLElement).blur());
