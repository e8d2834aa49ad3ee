// Label maps as runs of ids, and the one of this frame in its colours.
import { pen, prepared } from "./geometry";
import { by, state } from "./state";

// Run k holds the id ids[k], 0 for none, from pixel starts[k] to before starts[k + 1], row by row.
interface Runs { starts: Uint32Array; ids: Uint8Array }

const KEPT = 64;
const canvas = by<HTMLCanvasElement>("masks");
const kept = new Map<number, Runs>();
const tinted = document.createElement("canvas");
let top = 0, empty = true;

export const known = (frame: number) => kept.has(frame);
export const forget = (frames: Iterable<number> = [...kept.keys()]) => { for (const frame of frames) kept.delete(frame); };

// Bytes as the server sends them: how many runs, where they start, their ids.
export function keep(frame: number, bytes: ArrayBuffer) {
  const count = new DataView(bytes).getUint32(0, true);
  kept.delete(frame);
  kept.set(frame, { starts: new Uint32Array(bytes, 4, count), ids: new Uint8Array(bytes, 4 + 4 * count, count) });
  if (kept.size > KEPT) kept.delete(kept.keys().next().value!);
}

function colours(): Uint32Array {
  const table = new Uint32Array(256);
  for (const item of state.film!.project.objects) {
    const rgb = parseInt(item.colour.slice(1), 16);
    table[item.id] = 0xff000000 | ((rgb & 255) << 16) | (rgb & 0xff00) | (rgb >> 16);
  }
  return table;
}

// Colour the rows that have masks.
export function tint() {
  const runs = kept.get(state.frame);
  empty = true;
  if (!runs || !state.film) return;
  const { starts, ids } = runs, [width, height] = state.film.size, table = colours();
  let first = 0, last = ids.length - 1;
  while (first <= last && !ids[first]) first++;
  while (last >= first && !ids[last]) last--;
  if (first > last) return;
  const end = last + 1 < starts.length ? starts[last + 1]! : width * height;
  top = Math.floor(starts[first]! / width);
  const out = new ImageData(width, Math.ceil(end / width) - top), words = new Uint32Array(out.data.buffer), before = top * width;
  for (let k = first; k <= last; k++)
    if (ids[k]) words.fill(table[ids[k]!]!, starts[k]! - before, (k === last ? end : starts[k + 1]!) - before);
  if (tinted.width !== out.width || tinted.height !== out.height) { tinted.width = out.width; tinted.height = out.height; }
  pen(tinted).putImageData(out, 0, 0);
  empty = false;
}

export function drawMasks() {
  const tool = prepared(canvas);
  tool.imageSmoothingEnabled = false;
  if (state.film && !empty) tool.drawImage(tinted, 0, top);
}

// Hidden, or as strong as is chosen.
export function showMasks() { canvas.style.visibility = canvas.style.visibility ? "" : "hidden"; }
const strength = by<HTMLInputElement>("strength");
strength.oninput = () => { canvas.style.opacity = String(Number(strength.value) / 100); canvas.style.visibility = ""; };
