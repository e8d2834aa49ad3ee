// A lane for every object: where it is seen, how large, how sure, and what was given.
import { pen } from "./geometry";
import { by, state } from "./state";
import type { Film, Item } from "./types";

export const timeline = by<HTMLCanvasElement>("timeline");
const LANE = 14, EDGE = 14;

export const frameAt = (x: number) => x / timeline.clientWidth * (state.film?.count ?? 1) - 0.5;

export function drawTimeline() {
  const { film } = state, objects = film?.project.objects ?? [];
  const height = EDGE + Math.max(1, objects.length) * LANE, ratio = devicePixelRatio;
  timeline.style.height = `${height}px`;
  timeline.width = Math.round(timeline.clientWidth * ratio);
  timeline.height = Math.round(height * ratio);
  if (!film) return;
  const tool = pen(timeline);
  tool.scale(ratio, ratio);
  const step = timeline.clientWidth / film.count;
  objects.forEach((item, k) => lane(tool, film, item, EDGE / 2 + k * LANE, step));
  tool.fillStyle = "#fff";
  tool.fillRect((state.frame + 0.5) * step - 1, 2, 2, height - 4);
}

function lane(tool: CanvasRenderingContext2D, film: Film, item: Item, y: number, step: number) {
  tool.fillStyle = "#262a32";
  tool.fillRect(0, y + 1, timeline.clientWidth, LANE - 2);
  const seen = Object.entries(film.project.seen);
  const most = seen.reduce((largest, [, here]) => Math.max(largest, here[item.id]?.area ?? 0), 1);
  tool.fillStyle = item.colour;
  for (const [at, here] of seen) {
    const found = here[item.id];
    if (!found) continue;
    tool.globalAlpha = 0.25 + 0.75 * Math.max(0, 2 * found.sure - 1);
    const tall = Math.max(2, (LANE - 3) * Math.sqrt(found.area / most)), x = Number(at) * step;
    tool.fillRect(x, y + LANE - 1 - tall, Math.max(step, 0.6) + 0.2, tall);
  }
  tool.globalAlpha = 1;
  tool.fillStyle = "#fff";
  for (const [at, ids] of Object.entries(film.project.given))
    if (ids.includes(item.id)) diamond(tool, (Number(at) + 0.5) * step, y + LANE / 2);
}

function diamond(tool: CanvasRenderingContext2D, x: number, y: number) {
  tool.beginPath();
  tool.moveTo(x, y - 4); tool.lineTo(x + 4, y); tool.lineTo(x, y + 4); tool.lineTo(x - 4, y);
  tool.fill();
}
