// Buttons and lists: films, saving, tracking, and how masks are computed.
import { follow, go, play } from "./frames";
import { send } from "./socket";
import { by, say, state } from "./state";
import { letGo } from "./tools";

const CHOICES = ["bundle", "memory", "interval", "windows", "share"] as const;

export function enable() {
  const { film, busy, works } = state, may = film !== null && works && !busy;
  const buttons = { track: may, back: may, save: may, add: may, stop: busy && works, undo: may && film.project.undo > 0, redo: may && film.project.redo > 0, play: film !== null };
  for (const [id, on] of Object.entries(buttons)) by<HTMLButtonElement>(id).disabled = !on;
  for (const id of CHOICES) by<HTMLInputElement>(id).disabled = !may;
}

// What is being typed stays.
export function showChoices() {
  const choices = state.film?.project.choices;
  if (!choices) return;
  for (const id of CHOICES) if (document.activeElement !== by(id)) by<HTMLInputElement>(id).value = String(choices[id] ?? "");
}

function choose(id: string) {
  const input = by<HTMLInputElement>(id), value = input.type === "number" ? input.valueAsNumber : input.value;
  send("choose", { choices: { [id]: value || null } });
}

function begin(kind: string, more: object) {
  state.busy = true; enable();
  send(kind, more);
}

function track(backwards: boolean) {
  letGo(); follow(true);
  begin("track", { backwards });
}

function upload(file: File) {
  const request = new XMLHttpRequest();
  request.upload.onprogress = ({ loaded, total }) => say(`uploading ${file.name}: ${Math.round(100 * loaded / total)} %`);
  request.onerror = () => say(`${file.name} was not uploaded: the server does not answer`, true);
  request.onload = () => {
    const content = JSON.parse(request.responseText);
    if (request.status === 200) send(content.name.endsWith(".zip") ? "bring" : "open", { name: content.name, frame: 0 });
    else say(content.error, true);
  };
  request.open("PUT", `upload/${encodeURIComponent(file.name)}`);
  request.send(file);
}

by<HTMLSelectElement>("files").onchange = (event) => {
  const name = (event.target as HTMLSelectElement).value;
  if (name) { say(`opening ${name}`); send("open", { name, frame: 0 }); }
};
by<HTMLInputElement>("upload").onchange = (event) => {
  const input = event.target as HTMLInputElement, file = input.files?.[0];
  if (file) upload(file);
  input.value = "";
};
by("pick").onclick = () => by("upload").click();
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  const file = event.dataTransfer?.files[0];
  if (file) upload(file);
});
by("add").onclick = () => { letGo(); send("add"); };
by("undo").onclick = () => send("undo");
by("redo").onclick = () => send("redo");
by("take").onclick = () => send("take");
by("save").onclick = () => begin("export", { what: by<HTMLSelectElement>("what").value });
by("track").onclick = () => track(false);
by("back").onclick = () => track(true);
by("stop").onclick = () => send("stop");
by("follow").onclick = () => { follow(true); go(state.tracked); };
by("play").onclick = play;
for (const id of CHOICES) by(id).onchange = () => choose(id);
