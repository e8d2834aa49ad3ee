// The keyboard.
import { go, play } from "./frames";
import { magnify } from "./geometry";
import { resize } from "./marks";
import { send } from "./socket";
import { by, state } from "./state";
import { choose } from "./tools";
import { draw } from "./view";

const zoom = (times: number) => { magnify(times); draw(); };
const KEYS: Record<string, (shift: boolean) => void> = {
  arrowright: (shift) => go(state.frame + (shift ? 10 : 1)), arrowleft: (shift) => go(state.frame - (shift ? 10 : 1)),
  home: () => go(0), end: () => go((state.film?.count ?? 1) - 1), " ": play,
  t: () => by("track").click(), r: () => by("back").click(), escape: () => by("stop").click(), n: () => by("add").click(),
  c: () => choose("click"), x: () => choose("box"), b: () => choose("brush"), e: () => choose("erase"),
  l: () => choose("lasso"), p: () => choose("pan"), "[": () => resize(0.8), "]": () => resize(1.25),
  "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), "0": () => zoom(0),
};

addEventListener("keydown", (event) => {
  if ((event.target as HTMLElement).matches("input, select")) return;
  const key = event.key.toLowerCase(), control = event.ctrlKey || event.metaKey;
  const action = control ? key === "z" && (() => send(event.shiftKey ? "redo" : "undo")) : !event.altKey && KEYS[key];
  if (!action) return;
  action(event.shiftKey);
  event.preventDefault();
});
// What was set gives the keys back to the film.
addEventListener("change", (event) => (event.target as HTMLElement).blur());
