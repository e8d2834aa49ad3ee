// The list of objects.
import { drawMarks } from "./marks";
import { send } from "./socket";
import { by, state } from "./state";
import { drawTimeline, reveal } from "./timeline";
import type { Item } from "./types";

export function listObjects() {
  by("objects").replaceChildren(...state.film!.project.objects.map(row));
}

export function select(id: number) {
  if (state.chosen === id) return;
  state.chosen = id; state.clicks = []; state.box = null;
  state.film!.project.objects.forEach((item, k) => { by("objects").children[k]!.className = item.id === id ? "chosen" : ""; });
  drawMarks(); drawTimeline(); reveal();
}

function row(item: Item): HTMLLIElement {
  const line = document.createElement("li");
  line.className = item.id === state.chosen ? "chosen" : "";
  const colour = Object.assign(document.createElement("input"), { type: "color", value: item.colour, title: "Colour" });
  const name = Object.assign(document.createElement("input"), { type: "text", value: item.name, maxLength: 80, ariaLabel: "Name" });
  const remove = Object.assign(document.createElement("button"), { textContent: "×", title: "Remove from all frames" });
  const rename = () => send("rename", { object: item.id, name: name.value, colour: colour.value });
  colour.onchange = rename; name.onchange = rename;
  remove.onclick = () => send("remove", { object: item.id });
  line.onpointerdown = () => select(item.id);
  line.append(colour, name, remove);
  return line;
}
