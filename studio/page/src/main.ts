// The page: everything is put together here.
import "./style.css";
import "./controls";
import "./keys";
import { go, seek } from "./frames";
import { magnify, over, toPage } from "./geometry";
import { shown, told } from "./messages";
import { connect, send } from "./socket";
import { state } from "./state";
import { describe, drawTimeline, frameAt, timeline } from "./timeline";
import { choose } from "./tools";
import { draw } from "./view";

over.addEventListener("wheel", (event) => {
  event.preventDefault();
  magnify(Math.exp(-event.deltaY / 400), event);
  draw();
}, { passive: false });
const scrub = (event: PointerEvent) => {
  timeline.title = describe(event.offsetX, event.offsetY);
  if (event.buttons) seek(frameAt(event.offsetX));
};
timeline.onpointerdown = (event) => { timeline.setPointerCapture(event.pointerId); scrub(event); };
timeline.onpointermove = scrub;
addEventListener("resize", () => { draw(); drawTimeline(); });
choose("click");
connect(told, shown);

// For tests and measurements: where a pixel of the film lies on the page, and what a person can send.
Object.assign(window, {
  studio: {
    toPage, send, go, clicks: () => state.clicks, given: (at: number) => state.film?.project.given[at] !== undefined,
    view: () => { const { zoom, shift, frame, tool, busy, chosen, tracked } = state; return { zoom, shift, frame, tool, busy, chosen, tracked }; },
    project: () => state.film?.project, size: () => state.film?.size,
  },
});
