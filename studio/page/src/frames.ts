// Going to a frame, and playing.
import { forget, keep, known, tint } from "./masks";
import { send } from "./socket";
import { by, say, state } from "./state";
import { drawTimeline } from "./timeline";
import { letGo } from "./tools";
import { draw, show } from "./view";

let wanted = -1, timer = 0;

export const playing = () => timer !== 0;

// A person goes elsewhere, and does not follow what is being tracked any longer.
export function seek(to: number) {
  follow(state.tracked < 0);
  go(to);
}

export function follow(on: boolean) {
  state.following = on;
  by("follow").hidden = on;
}

// The newest frame that is asked for; what was overtaken is never fetched.
export async function go(to: number) {
  const { film } = state;
  if (!film) return;
  to = Math.min(Math.max(Math.round(to), 0), film.count - 1);
  if (to !== state.frame) letGo();
  state.frame = to;
  place();
  if (wanted >= 0) { wanted = to; return; }
  wanted = to;
  try {
    while (wanted >= 0) {
      const at = wanted;
      if (!await fetched(at)) return;
      document.body.dataset.frame = String(at);
      if (wanted === at) break;
    }
    if (state.works) send("at");
  } finally { wanted = -1; }
}

// Masks are asked for where the project has some that this page does not.
async function fetched(at: number): Promise<boolean> {
  const needed = state.film!.project.seen[at] && !known(at);
  const [jpeg, masks] = await Promise.all([fetch(`frame/${at}.jpg`), needed ? fetch(`mask/${at}`) : null]);
  for (const answer of [jpeg, masks])
    if (answer && !answer.ok) { say((await answer.json()).error, true); return false; }
  const next = await createImageBitmap(await jpeg.blob());
  if (masks && !known(at)) keep(at, await masks.arrayBuffer());
  show(next); tint(); draw();
  return true;
}

// Masks are others than this page knows.
export function again(frames: number[], to: number) {
  forget(frames);
  go(to);
}

export function place() {
  const { film, frame } = state;
  by("place").textContent = film ? `frame ${frame + 1} of ${film.count} · ${(frame / film.rate).toFixed(2)} s` : "";
  drawTimeline();
}

export function play() {
  if (timer) { clearInterval(timer); timer = 0; by("play").textContent = "Play"; return; }
  const { film } = state;
  if (!film) return;
  const from = state.frame === film.count - 1 ? 0 : state.frame, begun = performance.now();
  by("play").textContent = "Pause";
  timer = window.setInterval(() => {
    const to = from + Math.floor((performance.now() - begun) / 1000 * film.rate);
    if (to >= film.count) { play(); return; }
    if (to !== state.frame) seek(to);
  }, 15);
}
