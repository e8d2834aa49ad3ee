// The page: three canvases of one size (picture, masks, tools), a timeline, and one WebSocket.
import "./style.css";

type Point = [number, number];
interface Item { id: number; name: string; colour: string }
interface Seen { area: number; sure: number }
interface Choices { bundle: string; memory: number | null; interval: number | null }
interface Project {
  frame: number; objects: Item[]; choices: Choices; given: Record<string, number[]>;
  seen: Record<string, Record<string, Seen>>; undo: number; redo: number;
}
interface Film { name: string; size: [number, number]; count: number; rate: number; tracking: boolean; project: Project }

const by = <T extends HTMLElement = HTMLElement>(id: string) => document.getElementById(id) as T;
const picture = by<HTMLCanvasElement>("picture"), masks = by<HTMLCanvasElement>("masks"), over = by<HTMLCanvasElement>("over");
const timeline = by<HTMLCanvasElement>("timeline");
const context = (canvas: HTMLCanvasElement) => canvas.getContext("2d")!;
const TOOLS = { click: "Click", box: "Box", brush: "Brush", erase: "Eraser", lasso: "Lasso", pan: "Pan" } as const;
type Tool = keyof typeof TOOLS;

let socket: WebSocket;
let film: Film | null = null;
let frame = 0, wanted = -1, chosen = 0, tool: Tool = "click", works = true, busy = false, playing = 0;
let zoom = 1, shift: Point = [0, 0];
let bitmap: ImageBitmap | null = null;
const labels = new Map<number, Uint8Array | null>(); // Ids by frame; null where there are none.
const tinted = document.createElement("canvas");
let clicks: [number, number, boolean][] = [];
let stroke: Point[] = [], drag: Point | null = null, box: [number, number, number, number] | null = null;
// The lasso: stretches as drawn, each replaced by its way along edges once the server has found it.
let legs: Point[][] = [], unanswered = new Set<number>(), closing = false;
let sentAt = 0;

const send = (kind: string, more: object = {}) => {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ kind, frame, ...more }));
};
const say = (text: string, error = false) => { by("text").textContent = text; by("text").className = error ? "error" : ""; };

function connect() {
  socket = new WebSocket(`ws://${location.host}/ws`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = async (event) => {
    if (event.data instanceof ArrayBuffer) return took(event.data);
    const message = JSON.parse(event.data);
    switch (message.kind) {
      case "hello": return hello(message);
      case "role":
        works = message.works;
        by("notice").hidden = message.pages < 2;
        by("notice").firstElementChild!.textContent = works
          ? "This film is open in another page too; this one works on it." : "Another page works on this film; here it can be watched.";
        by("take").hidden = works;
        return;
      case "project": if (message.made) chosen = message.made; update(message); if (message.go !== undefined) { clicks = []; go(message.go); } return;
      case "progress":
        if (!busy) { busy = true; state(); }
        film!.project.seen[message.frame] = message.seen;
        by("running").textContent = `${film!.project.choices.bundle} · ${message.runs_on} · ${message.fps.toFixed(1)} frames/s · ${Math.max(0, message.left).toFixed(0)} s left`;
        say(`tracking frame ${message.frame + 1}`);
        if (!playing) go(message.frame);
        return drawTimeline();
      case "tracked": busy = false; say("ready"); by("running").textContent = by("running").textContent!.replace(/ · [^·]*left$/, ""); return update(message);
      case "clicked": return say(`mask in ${message.ms.toFixed(0)} ms`);
      case "contour": return snapped(message.leg, message.points);
      case "saving": return say(`saving ${message.what}: ${message.done} of ${message.count} frames, ${message.fps.toFixed(0)} frames/s, ${message.left.toFixed(0)} s left`);
      case "saved": {
        busy = false; state();
        const link = by<HTMLAnchorElement>("saved");
        link.hidden = !message.path;
        link.href = `export/${message.what}`; link.textContent = `Download ${message.what}`;
        return message.path ? say(`saved: ${message.path}`) : say("nothing was saved");
      }
      case "status": return say(message.text);
      case "error": if (closing) fill(); return say(message.text, true);
    }
  };
  socket.onclose = (event) => {
    say(event.code === 1006 || event.code < 4000 ? "the server has gone; what was done is saved, trying again" : event.reason, true);
    setTimeout(connect, 1000);
  };
}

function hello(message: { files: string[]; bundles: string[]; film: Film | null }) {
  const files = by<HTMLSelectElement>("files");
  files.replaceChildren(new Option("Open a film …", ""), ...message.files.map((name) => new Option(name)));
  by("bundle").replaceChildren(...message.bundles.map((name) => new Option(name)));
  film = message.film;
  by("empty").hidden = film !== null;
  if (!film) { say("ready"); state(); return; }
  files.value = film.name;
  busy = film.tracking;
  labels.clear(); clicks = []; zoom = 1; shift = [0, 0]; bitmap = null;
  update(film.project); tint(); draw();
  say("ready");
  go(film.project.frame);
}

function update(project: Project) {
  const colours = (of: Project) => of.objects.map((item) => `${item.id}${item.colour}`).join();
  const recoloured = colours(film!.project) !== colours(project);
  film!.project = project;
  if (!project.objects.some((item) => item.id === chosen)) chosen = project.objects.at(-1)?.id ?? 0;
  by("objects").replaceChildren(...project.objects.map(row));
  by<HTMLSelectElement>("bundle").value = project.choices.bundle;
  by<HTMLInputElement>("memory").value = String(project.choices.memory ?? "");
  by<HTMLInputElement>("interval").value = String(project.choices.interval ?? "");
  if (recoloured) { tint(); draw(); } else drawOver();
  state(); drawTimeline();
}

function row(item: Item): HTMLLIElement {
  const line = document.createElement("li");
  line.className = item.id === chosen ? "chosen" : "";
  const colour = Object.assign(document.createElement("input"), { type: "color", value: item.colour, title: "Colour" });
  const name = Object.assign(document.createElement("input"), { type: "text", value: item.name, maxLength: 80, ariaLabel: "Name" });
  const remove = Object.assign(document.createElement("button"), { textContent: "×", title: "Remove from all frames" });
  const rename = () => send("rename", { object: item.id, name: name.value, colour: colour.value });
  colour.onchange = rename; name.onchange = rename;
  remove.onclick = () => { if (confirm(`Remove ${item.name} from all frames? This cannot be undone.`)) send("remove", { object: item.id }); };
  line.onpointerdown = () => {
    if (chosen === item.id) return;
    chosen = item.id; clicks = [];
    for (const other of by("objects").children) other.className = other === line ? "chosen" : "";
    drawOver();
  };
  line.append(colour, name, remove);
  return line;
}

function state() {
  const on = film !== null;
  for (const id of ["track", "back", "save", "add"]) by<HTMLButtonElement>(id).disabled = !on || busy;
  by<HTMLButtonElement>("stop").disabled = !busy;
  by<HTMLButtonElement>("undo").disabled = !on || busy || !film!.project.undo;
  by<HTMLButtonElement>("redo").disabled = !on || busy || !film!.project.redo;
}

async function took(data: ArrayBuffer) {
  const at = new DataView(data).getUint32(0, true);
  await keep(at, new Blob([data.slice(4)], { type: "image/png" }));
}

async function keep(at: number, png: Blob | null) {
  const ids = png && await decoded(png);
  labels.delete(at);
  labels.set(at, ids);
  if (labels.size > 16) labels.delete(labels.keys().next().value!);
  if (at !== frame) return;
  tint(); draw();
  if (sentAt) requestAnimationFrame(() => requestAnimationFrame(() => { document.body.dataset.shown = String(performance.now() - sentAt); sentAt = 0; }));
}

async function decoded(png: Blob): Promise<Uint8Array> {
  const image = await createImageBitmap(png, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const pen = new OffscreenCanvas(image.width, image.height).getContext("2d", { willReadFrequently: true })!;
  pen.drawImage(image, 0, 0);
  const words = new Uint32Array(pen.getImageData(0, 0, image.width, image.height).data.buffer);
  image.close();
  return Uint8Array.from(words);
}

function tint() {
  const ids = labels.get(frame);
  if (!ids || !film) { tinted.width = tinted.height = 1; return; }
  const table = new Uint32Array(256);
  for (const item of film.project.objects) {
    const rgb = parseInt(item.colour.slice(1), 16);
    table[item.id] = 0xff000000 | ((rgb & 255) << 16) | (rgb & 0xff00) | (rgb >> 16);
  }
  [tinted.width, tinted.height] = film.size;
  const out = context(tinted).createImageData(...film.size), words = new Uint32Array(out.data.buffer);
  for (let i = 0; i < words.length; i++) words[i] = table[ids[i]!]!;
  context(tinted).putImageData(out, 0, 0);
}

async function go(to: number) {
  if (!film) return;
  to = Math.min(Math.max(Math.round(to), 0), film.count - 1);
  if (to !== frame) { clicks = []; box = null; letGo(); }
  frame = to;
  place();
  if (wanted >= 0) { wanted = to; return; }
  wanted = to;
  try {
    while (wanted >= 0) {
      const at = wanted;
      const [jpeg, png] = await Promise.all([fetch(`frame/${at}.jpg`), labels.has(at) ? null : fetch(`mask/${at}.png`)]);
      if (!jpeg.ok) { say((await jpeg.json()).error, true); return; }
      const next = await createImageBitmap(await jpeg.blob());
      if (png?.ok && !labels.has(at)) await keep(at, png.status === 204 ? null : await png.blob());
      bitmap?.close(); bitmap = next;
      tint(); draw();
      document.body.dataset.frame = String(at);
      if (wanted === at) break;
    }
    send("at");
  } finally { wanted = -1; }
}

function place() {
  by("place").textContent = film ? `frame ${frame + 1} of ${film.count} · ${(frame / film.rate).toFixed(2)} s` : "";
  drawTimeline();
}

function scale(): number {
  return film ? Math.min(over.clientWidth / film.size[0], over.clientHeight / film.size[1]) * zoom : 1;
}
function origin(): Point {
  return film ? [(over.clientWidth - film.size[0] * scale()) / 2 + shift[0], (over.clientHeight - film.size[1] * scale()) / 2 + shift[1]] : [0, 0];
}
function inFilm(event: { offsetX: number; offsetY: number }): Point {
  const [x, y] = origin();
  return [(event.offsetX - x) / scale(), (event.offsetY - y) / scale()];
}
function prepared(canvas: HTMLCanvasElement): CanvasRenderingContext2D {
  const ratio = devicePixelRatio, width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const pen = context(canvas);
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  const [x, y] = origin(), s = scale() * ratio;
  pen.setTransform(s, 0, 0, s, x * ratio, y * ratio);
  return pen;
}
function draw() {
  const under = prepared(picture);
  if (bitmap && film) under.drawImage(bitmap, 0, 0, film.size[0], film.size[1]);
  const pen = prepared(masks);
  pen.imageSmoothingEnabled = false;
  if (film && labels.get(frame)) pen.drawImage(tinted, 0, 0);
  drawOver();
}
const width = () => Number(by<HTMLInputElement>("size").value);
function drawOver(hover?: Point) {
  const pen = prepared(over), s = scale();
  const colour = film?.project.objects.find((item) => item.id === chosen)?.colour ?? "#fff";
  pen.lineCap = pen.lineJoin = "round";
  for (const [x, y, on] of clicks) {
    pen.beginPath(); pen.arc(x, y, 6 / s, 0, 7);
    pen.fillStyle = on ? "#35d07f" : "#ff5a52"; pen.fill();
    pen.lineWidth = 2 / s; pen.strokeStyle = "#fff"; pen.stroke();
  }
  pen.strokeStyle = tool === "erase" ? "#ffffffaa" : colour;
  pen.lineWidth = tool === "lasso" ? 2 / s : width();
  const line = legs.length ? legs.flat() : stroke;
  if (line.length) {
    pen.beginPath();
    for (const [x, y] of [...line, line.at(-1)!]) pen.lineTo(x, y);
    pen.stroke();
  }
  if (box) { pen.lineWidth = 2 / s; pen.strokeStyle = colour; pen.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]); }
  if (hover && (tool === "brush" || tool === "erase")) {
    pen.beginPath(); pen.arc(hover[0], hover[1], width() / 2, 0, 7); pen.lineWidth = 1.5 / s; pen.strokeStyle = "#fff"; pen.stroke();
  }
}

function lane() { return 14; }
function drawTimeline() {
  const objects = film?.project.objects ?? [];
  const height = 14 + Math.max(1, objects.length) * lane();
  timeline.style.height = `${height}px`;
  const ratio = devicePixelRatio;
  timeline.width = Math.round(timeline.clientWidth * ratio); timeline.height = Math.round(height * ratio);
  const pen = context(timeline), wide = timeline.clientWidth;
  pen.scale(ratio, ratio);
  if (!film) return;
  const step = wide / film.count;
  objects.forEach((item, k) => {
    const bottom = 8 + (k + 1) * lane();
    pen.fillStyle = "#262a32"; pen.fillRect(0, bottom - lane() + 2, wide, lane() - 2);
    let most = 1;
    for (const here of Object.values(film!.project.seen)) most = Math.max(most, here[item.id]?.area ?? 0);
    pen.fillStyle = item.colour;
    for (const [at, here] of Object.entries(film!.project.seen)) {
      const seen = here[item.id];
      if (!seen) continue;
      pen.globalAlpha = 0.25 + 0.75 * Math.max(0, 2 * seen.sure - 1);
      const tall = Math.max(2, (lane() - 3) * Math.sqrt(seen.area / most));
      pen.fillRect(Number(at) * step, bottom - tall, Math.max(step, 0.6) + 0.2, tall);
    }
    pen.globalAlpha = 1; pen.fillStyle = "#fff";
    for (const [at, ids] of Object.entries(film!.project.given)) {
      if (!ids.includes(item.id)) continue;
      const x = (Number(at) + 0.5) * step, y = bottom - lane() / 2 + 1;
      pen.beginPath(); pen.moveTo(x, y - 4); pen.lineTo(x + 4, y); pen.lineTo(x, y + 4); pen.lineTo(x - 4, y); pen.fill();
    }
  });
  pen.fillStyle = "#fff"; pen.fillRect((frame + 0.5) * step - 1, 2, 2, height - 4);
}

function act(event: PointerEvent, kind: "down" | "move" | "up") {
  const at = inFilm(event);
  if (kind === "move" && !drag) return drawOver(at);
  if (kind === "down") {
    over.setPointerCapture(event.pointerId);
    if (tool === "pan" || event.button === 1) { drag = [event.offsetX - shift[0], event.offsetY - shift[1]]; panning = true; return; }
    if (!film || !works || busy) return;
    if (!chosen) return say("make an object first: + New", true);
    const inside = at[0] >= 0 && at[1] >= 0 && at[0] < film.size[0] && at[1] < film.size[1];
    if (tool === "click") {
      if (!inside) return;
      clicks.push([at[0], at[1], event.button !== 2 && !event.altKey]);
      sentAt = performance.now();
      drawOver();
      return send("click", { object: chosen, clicks, box });
    }
    if (closing) return;
    drag = at; stroke = tool === "box" ? [] : [at]; legs = tool === "lasso" ? [[at]] : [];
    return drawOver(at);
  }
  if (panning && drag) {
    if (kind === "move") { shift = [event.offsetX - drag[0], event.offsetY - drag[1]]; draw(); }
    else { panning = false; drag = null; }
    return;
  }
  if (!drag || !film) return;
  if (kind === "move") {
    if (tool === "box") box = [Math.min(drag[0], at[0]), Math.min(drag[1], at[1]), Math.max(drag[0], at[0]), Math.max(drag[1], at[1])];
    else if (tool === "lasso") {
      const leg = legs.at(-1)!, last = leg[0]!;
      leg.push(at);
      if (Math.hypot(at[0] - last[0], at[1] - last[1]) > 40 / scale()) { ask(last, at); legs.push([at]); }
    } else stroke.push(at);
    return drawOver(at);
  }
  drag = null;
  sentAt = performance.now();
  if (tool === "box" && box) { clicks = []; send("click", { object: chosen, clicks, box }); }
  else if (tool === "lasso") {
    legs.at(-1)!.push(at);
    ask(legs.at(-1)![0]!, legs[0]![0]!);
    closing = true;
    return drawOver();
  }
  else if (stroke.length) {
    clicks = [];
    const erase = tool === "erase" || event.button === 2 || event.altKey;
    send("paint", { object: chosen, points: stroke, width: width(), mode: erase ? "erase" : "paint" });
  }
  stroke = [];
  drawOver();
}
let panning = false;

function ask(start: Point, end: Point) {
  unanswered.add(legs.length - 1);
  send("contour", { leg: legs.length - 1, start, end });
}
function snapped(leg: number, points: Point[]) {
  if (!unanswered.delete(leg)) return;
  legs[leg] = points;
  if (closing && !unanswered.size) fill(); else drawOver();
}
function fill() {
  const points = legs.flat();
  letGo();
  clicks = [];
  send("paint", { object: chosen, points, mode: "fill" });
}
function letGo() { drag = null; stroke = []; legs = []; unanswered.clear(); closing = panning = false; drawOver(); }

function choose(name: Tool) {
  tool = name;
  for (const button of by("tools").querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.tool === name));
  over.style.cursor = name === "pan" ? "grab" : "crosshair";
  box = null; drawOver();
}

function magnify(by: number, place = { offsetX: over.clientWidth / 2, offsetY: over.clientHeight / 2 }) {
  const at = inFilm(place);
  zoom = Math.min(Math.max(zoom * by, 1), 40);
  if (zoom === 1) shift = [0, 0];
  else {
    const [x, y] = origin();
    shift = [shift[0] + place.offsetX - (x + at[0] * scale()), shift[1] + place.offsetY - (y + at[1] * scale())];
  }
  draw();
}

function play() {
  if (playing) { clearInterval(playing); playing = 0; by("play").textContent = "Play"; return; }
  if (!film) return;
  const from = frame, begun = performance.now();
  by("play").textContent = "Pause";
  playing = window.setInterval(() => {
    const to = from + Math.floor((performance.now() - begun) / 1000 * film!.rate);
    if (to >= film!.count) { play(); return; }
    if (to !== frame) go(to);
  }, 15);
}

for (const [name, title] of Object.entries(TOOLS)) {
  const button = Object.assign(document.createElement("button"), { textContent: title });
  button.dataset.tool = name;
  button.onclick = () => choose(name as Tool);
  by("tools").append(button);
}
by("tools").insertAdjacentHTML("beforeend", `<label>Brush size <input id="size" type="range" min="1" max="150" value="24"></label>`);
choose("click");
over.onpointerdown = (event) => act(event, "down");
over.onpointermove = (event) => act(event, "move");
over.onpointerup = (event) => act(event, "up");
over.onpointercancel = letGo;
over.onpointerleave = () => { if (!drag) drawOver(); };
over.oncontextmenu = (event) => event.preventDefault();
over.addEventListener("wheel", (event) => {
  event.preventDefault();
  magnify(Math.exp(-event.deltaY / 400), event);
}, { passive: false });
const seek = (event: PointerEvent) => { if (film && event.buttons) go(event.offsetX / timeline.clientWidth * film.count - 0.5); };
timeline.onpointerdown = (event) => { timeline.setPointerCapture(event.pointerId); seek(event); };
timeline.onpointermove = seek;
by<HTMLSelectElement>("files").onchange = (event) => {
  const name = (event.target as HTMLSelectElement).value;
  if (name) { say(`opening ${name}`); send("open", { name, frame: 0 }); }
};
by<HTMLInputElement>("upload").onchange = async (event) => {
  const input = event.target as HTMLInputElement, file = input.files?.[0];
  if (!file) return;
  input.value = "";
  say(`uploading ${file.name}`);
  const answer = await fetch(`upload/${encodeURIComponent(file.name)}`, { method: "PUT", body: file });
  const content = await answer.json();
  if (answer.ok) send(content.name.endsWith(".zip") ? "bring" : "open", { name: content.name, frame: 0 });
  else say(content.error, true);
};
by("add").onclick = () => { clicks = []; chosen = 0; send("add"); };
by("undo").onclick = () => send("undo");
by("redo").onclick = () => send("redo");
by("take").onclick = () => send("take");
by("save").onclick = () => { busy = true; state(); send("export", { what: by<HTMLSelectElement>("what").value }); };
const track = (backwards: boolean) => { busy = true; state(); clicks = []; send("track", { backwards }); };
by("track").onclick = () => track(false);
by("back").onclick = () => track(true);
by("stop").onclick = () => send("stop");
by("play").onclick = play;
const number = (id: string) => by<HTMLInputElement>(id).valueAsNumber || null;
for (const id of ["bundle", "memory", "interval"])
  by(id).onchange = () => send("choose", { choices: { bundle: by<HTMLSelectElement>("bundle").value, memory: number("memory"), interval: number("interval") } });
addEventListener("resize", () => { draw(); drawTimeline(); });
const KEYS: Record<string, (shift: boolean) => void> = {
  arrowright: (shift) => go(frame + (shift ? 10 : 1)), arrowleft: (shift) => go(frame - (shift ? 10 : 1)),
  home: () => go(0), end: () => go((film?.count ?? 1) - 1), " ": play,
  t: () => by("track").click(), r: () => by("back").click(), escape: () => by("stop").click(), n: () => by("add").click(),
  c: () => choose("click"), x: () => choose("box"), b: () => choose("brush"), e: () => choose("erase"),
  l: () => choose("lasso"), p: () => choose("pan"), "[": () => resize(0.8), "]": () => resize(1.25),
  "+": () => magnify(1.25), "=": () => magnify(1.25), "-": () => magnify(0.8), "0": () => magnify(0),
};
const resize = (by_: number) => { by<HTMLInputElement>("size").value = String(Math.round(width() * by_ + Math.sign(by_ - 1) / 2)); drawOver(); };
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
for (const event of ["dragover", "drop"]) addEventListener(event, (dropped) => dropped.preventDefault());
connect();

// For tests and measurements: where a pixel of the film lies on the page, and what a person can send.
const toPage = (x: number, y: number): Point => { const [x0, y0] = origin(); return [x0 + x * scale(), y0 + y * scale()]; };
Object.assign(window, { studio: { toPage, send, go, clicks: () => clicks, given: (at: number) => film?.project.given[at] !== undefined, view: () => ({ zoom, shift, frame, tool, busy, chosen }), project: () => film?.project, size: () => film?.size } });
