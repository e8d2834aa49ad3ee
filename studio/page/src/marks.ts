// What a person points at and draws: clicks, box, stroke and lasso.
import { over, prepared, scale } from "./geometry";
import { by, chosenItem, state } from "./state";
import type { Point } from "./types";

const size = by<HTMLInputElement>("size");
export const width = () => Number(size.value);
const showWidth = () => { by("width").textContent = size.value; };
size.oninput = showWidth;
export function resize(times: number) {
  size.value = String(Math.round(width() * times + Math.sign(times - 1) / 2));
  showWidth();
  drawMarks();
}

export function drawMarks(hover?: Point) {
  const { tool, clicks, box, legs, stroke } = state;
  const pen = prepared(over), s = scale(), colour = chosenItem()?.colour ?? "#fff";
  pen.lineCap = pen.lineJoin = "round";
  for (const [x, y, on] of clicks) {
    pen.beginPath(); pen.arc(x, y, 6 / s, 0, 7);
    pen.fillStyle = on ? "#35d07f" : "#ff5a52"; pen.fill();
    pen.lineWidth = 2 / s; pen.strokeStyle = "#fff"; pen.stroke();
  }
  pen.strokeStyle = state.erasing ? "#ffffffaa" : colour;
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
