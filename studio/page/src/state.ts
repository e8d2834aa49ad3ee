// What the page knows; everything else is drawn from it.
import type { Box, Film, Item, Point } from "./types";

export const TOOLS = { click: "Click", box: "Box", brush: "Brush", erase: "Eraser", lasso: "Lasso", pan: "Pan" } as const;
export type Tool = keyof typeof TOOLS;

export const state = {
  film: null as Film | null,
  frame: 0,
  chosen: 0,
  tool: "click" as Tool,
  works: true,
  busy: false,
  // While tracking: the newest frame, and whether to go along with it.
  tracked: -1,
  following: true,
  zoom: 1,
  shift: [0, 0] as Point,
  // What is being shown or drawn of the chosen object in this frame.
  clicks: [] as [number, number, boolean][],
  box: null as Box | null,
  stroke: [] as Point[],
  erasing: false,
  // The lasso: stretches as drawn, each replaced by its way along edges once the server has found it.
  legs: [] as Point[][],
  // When what is computed now was asked for; 0 once it is shown.
  sentAt: 0,
};

export const by = <T extends HTMLElement = HTMLElement>(id: string) => document.getElementById(id) as T;
export const say = (text: string, error = false) => { by("text").textContent = text; by("text").className = error ? "error" : ""; };
export const chosenItem = (): Item | undefined => state.film?.project.objects.find((item) => item.id === state.chosen);
