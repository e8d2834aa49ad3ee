// Where a pixel of the film lies on the page; zoom and pan.
import { by, state } from "./state";
import type { Point } from "./types";

export const over = by<HTMLCanvasElement>("over");
export const pen = (canvas: HTMLCanvasElement) => canvas.getContext("2d")!;

export function scale(): number {
  const { film, zoom } = state;
  return film ? Math.min(over.clientWidth / film.size[0], over.clientHeight / film.size[1]) * zoom : 1;
}

export function origin(): Point {
  const { film, shift } = state;
  return film ? [(over.clientWidth - film.size[0] * scale()) / 2 + shift[0], (over.clientHeight - film.size[1] * scale()) / 2 + shift[1]] : [0, 0];
}

export function inFilm(event: { offsetX: number; offsetY: number }): Point {
  const [x, y] = origin();
  return [(event.offsetX - x) / scale(), (event.offsetY - y) / scale()];
}

export function toPage(x: number, y: number): Point {
  const [x0, y0] = origin();
  return [x0 + x * scale(), y0 + y * scale()];
}

// Zoom about a place that stays where it is.
export function magnify(times: number, place = { offsetX: over.clientWidth / 2, offsetY: over.clientHeight / 2 }) {
  const at = inFilm(place);
  state.zoom = Math.min(Math.max(state.zoom * times, 1), 40);
  if (state.zoom === 1) state.shift = [0, 0];
  else {
    const [x, y] = toPage(...at);
    state.shift = [state.shift[0] + place.offsetX - x, state.shift[1] + place.offsetY - y];
  }
}

// An empty canvas whose pen draws in the film's pixels.
export function prepared(canvas: HTMLCanvasElement): CanvasRenderingContext2D {
  const ratio = devicePixelRatio, width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const tool = pen(canvas);
  tool.setTransform(1, 0, 0, 1, 0, 0);
  tool.clearRect(0, 0, canvas.width, canvas.height);
  const [x, y] = origin(), s = scale() * ratio;
  tool.setTransform(s, 0, 0, s, x * ratio, y * ratio);
  return tool;
}
