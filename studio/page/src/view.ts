// Three canvases of one size: picture, masks, marks.
import { prepared } from "./geometry";
import { drawMarks } from "./marks";
import { drawMasks, tint } from "./masks";
import { by, state } from "./state";

const canvas = by<HTMLCanvasElement>("picture");
let bitmap: ImageBitmap | null = null;

export function show(next: ImageBitmap | null) {
  bitmap?.close();
  bitmap = next;
}

export function draw() {
  const tool = prepared(canvas);
  if (bitmap && state.film) tool.drawImage(bitmap, 0, 0, ...state.film.size);
  drawMasks();
  drawMarks();
}

// Masks are others, the picture is not.
export function recolour() {
  tint();
  drawMasks();
  drawMarks();
  const { sentAt } = state;
  if (!sentAt) return;
  state.sentAt = 0;
  requestAnimationFrame(() => requestAnimationFrame(() => { document.body.dataset.shown = String(performance.now() - sentAt); }));
}
