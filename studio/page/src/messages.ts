// What the server tells, and what the page makes of it.
import { enable, showChoices } from "./controls";
import { again, follow, go, playing } from "./frames";
import { drawMarks } from "./marks";
import { forget, keep, tint } from "./masks";
import { listObjects } from "./objects";
import { by, say, state } from "./state";
import { drawTimeline, reveal } from "./timeline";
import { drawn, fill, isClosing, letGo, made, snapped } from "./tools";
import type { Film, Hello, Progress, Project } from "./types";
import { draw, recolour, show } from "./view";

export function shown(bytes: ArrayBuffer) {
  const frame = new DataView(bytes).getUint32(0, true);
  keep(frame, bytes.slice(4));
  if (frame !== state.frame) return;
  drawn();
  recolour();
}

function hello({ files, bundles, film }: Hello) {
  const list = by<HTMLSelectElement>("files");
  list.replaceChildren(new Option("Open a film …", ""), ...files.map((name) => new Option(name)));
  by("bundle").replaceChildren(...bundles.map((name) => new Option(name)));
  by("empty").hidden = film !== null;
  document.title = film ? `${film.name} · jointrt studio` : "jointrt studio";
  Object.assign(state, { film, busy: film?.tracking ?? false, zoom: 1, shift: [0, 0] });
  say("ready");
  if (!film) return enable();
  list.value = film.name;
  forget(); letGo(); show(null);
  update(film.project); tint(); draw();
  go(film.project.frame);
}

function update(project: Project) {
  const film = state.film as Film, colours = (of: Project) => of.objects.map((item) => `${item.id}${item.colour}`).join();
  const recoloured = colours(film.project) !== colours(project);
  film.project = project;
  if (!project.objects.some((item) => item.id === state.chosen)) state.chosen = project.objects.at(-1)?.id ?? 0;
  listObjects();
  by("hint").hidden = project.objects.length > 0;
  showChoices();
  if (recoloured) recolour(); else drawMarks();
  enable(); drawTimeline();
}

function changed(message: Project & { made?: number; changed?: number[]; go?: number }) {
  if (message.made) state.chosen = message.made;
  update(message);
  if (message.made) { made(); reveal(); }
  if (!message.changed) return;
  say("ready");
  state.clicks = [];
  again(message.changed, message.go ?? state.frame);
}

function progress(message: Progress) {
  const { project } = state.film!;
  if (!state.busy) { state.busy = true; enable(); }
  project.seen[message.frame] = message.seen;
  by("running").textContent = `${project.choices.bundle} · ${message.runs_on} · ${message.fps.toFixed(1)} frames/s · ${Math.max(0, message.left).toFixed(0)} s left`;
  say(`tracking frame ${message.frame + 1}`);
  state.tracked = message.frame;
  if (state.following && !playing()) go(message.frame);
  drawTimeline();
}

function tracked(message: Project) {
  state.busy = false;
  state.tracked = -1;
  follow(true);
  say("ready");
  by("running").textContent = by("running").textContent!.replace(/ · [^·]*left$/, "");
  update(message);
}

function role({ works, pages }: { works: boolean; pages: number }) {
  state.works = works;
  by("notice").hidden = pages < 2;
  by("notice").firstElementChild!.textContent = works
    ? "This film is open in another page too; this one works on it." : "Another page works on this film; here it can be watched.";
  by("take").hidden = works;
  enable();
}

function saved({ what, path }: { what: string; path: string | null }) {
  state.busy = false; enable();
  const link = by<HTMLAnchorElement>("saved");
  link.hidden = !path;
  link.href = `export/${what}`; link.textContent = `Download ${what}`;
  say(path ? `saved: ${path}` : "nothing was saved");
}

function failed(text: string) {
  if (isClosing()) fill();
  drawn(); drawMarks();
  showChoices();
  say(text, true);
}

export function told(message: any) {
  switch (message.kind) {
    case "hello": return hello(message);
    case "role": return role(message);
    case "project": return changed(message);
    case "progress": return progress(message);
    case "tracked": return tracked(message);
    case "clicked": return say(`mask in ${message.ms.toFixed(0)} ms`);
    case "contour": return snapped(message.leg, message.points);
    case "saving": return say(`saving ${message.what}: ${message.done} of ${message.count} frames, ${message.fps.toFixed(0)} frames/s, ${message.left.toFixed(0)} s left`);
    case "saved": return saved(message);
    case "status": return say(message.text);
    case "error": return failed(message.text);
  }
}
