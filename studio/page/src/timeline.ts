// A lane for every object: where it is seen, how large, how sure, and what was given.
import { pen } from "./geometry";
import { by, state } from "./state";
import type { Film, Item } from "./types";

export const timeline = by<HTMLCanvasElement>("timeline");
const LANE = 14, EDGE = 14;

export const frameAt = (x: number) => x / timeline.clientWidth * (state.film?.count ?? 1) - 0.5;

export function drawTimeline() {
  const { film } = state, objects = film?.project.objects ?? [];
  const height = EDGE + Math.max(3, objects.length) * LANE, ratio = devicePixelRatio;
  timeline.style.height = `${height}px`;
  timeline.width = Math.round(timeline.clientWidth * ratio);
  timeline.height = Math.round(height * ratio);
  if (!film) return;
  const tool = pen(timeline);
  tool.scale(ratio, ratio);
  const step = timeline.clientWidth / film.count;
  objects.forEach((item, k) => lane(tool, film, item, EDGE / 2 + k * LANE, step));
  if (state.busy && state.tracked >= 0) {
    tool.fillStyle = "#4c8dff";
    tool.fillRect((state.tracked + 0.5) * step - 1, 2, 2, height - 4);
  }
  tool.fillStyle = "#fff";
  tool.fillRect((state.frame + 0.5) * step - 1, 2, 2, height - 4);
}

// What is known of the object whose lane a place lies in.
export function describe(x: number, y: number): string {
  const { film } = state, at = Math.round(frameAt(x)), item = film?.project.objects[Math.floor((y - EDGE / 2) / LANE)];
  if (!film || !item || at < 0 || at >= film.count) return "";
  const seen = film.project.seen[at]?.[item.id], given = film.project.given[at]?.includes(item.id);
  const what = seen ? `${seen.area} pixels, ${given ? "given" : `${Math.round(100 * seen.sure)} % sure`}` : "not seen";
  return `${item.name}, frame ${at + 1}: ${what}`;
}

function lane(tool: CanvasRenderingContext2D, film: Film, item: Item, y: number, step: number) {
  tool.fillStyle = item.id === state.chosen ? "#343c4a" : "#262a32";
  tool.fillRect(0, y + 1, timeline.clientWidth, LANE - 2);
  const seen = Object.entries(film.project.seen);
  const most = seen.reduce((largest, [, here]) => Math.max(largest, here[item.id]?.area ?? 0), 1);
  tool.fillStyle = item.colour;
  for (const [at, here] of seen) {
    const found = here[item.id];
    if (!found) continue;
    tool.globalAlpha = 0.25 + 0.75 * Math.max(0, 2 * found.sure - 1);
    const tall = Math.max(2, (LANE - 3) * Math.sqrt(found.area / most)), x = pixel(Number(at) * step);
    tool.fillRect(x, y + LANE - 1 - tall, Math.max(pixel((Number(at) + 1) * step) - x, 1), tall);
  }
  tool.globalAlpha = 1;
  tool.fillStyle = "#fff";
  tool.strokeStyle = "#15171b";
  for (const [at, ids] of Object.entries(film.project.given))
    if (ids.includes(item.id)) diamond(tool, (Number(at) + 0.5) * step, y + LANE / 2);
}

// The nearest boundary of the screen's pixels, so that bars neither overlap nor leave gaps.
const pixel = (x: number) => Math.round(x * devicePixelRatio) / devicePixelRatio;

function diamond(tool: CanvasRenderingContext2D, x: number, y: number) {
  tool.beginPath();
  tool.moveTo(x, y - 4); tool.lineTo(x + 4, y); tool.lineTo(x, y + 4); tool.lineTo(x - 4, y);
  tool.closePath();
  tool.stroke(); tool.fill();
}

// The lane of the chosen object comes into view.
export function reveal() {
  const k = state.film?.project.objects.findIndex((item) => item.id === state.chosen) ?? 0, lanes = by("lanes");
  const top = EDGE / 2 + k * LANE;
  lanes.scrollTop = Math.min(Math.max(lanes.scrollTop, top + LANE + EDGE / 2 - lanes.clientHeight), top - EDGE / 2);
}
