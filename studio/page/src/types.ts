// What the server tells.
export type Point = [number, number];
export type Box = [number, number, number, number];
export interface Item { id: number; name: string; colour: string }
export interface Seen { area: number; sure: number }
export interface Choices { bundle: string; memory: number | null; interval: number | null; windows: string | null; share: string }
export interface Project {
  frame: number; objects: Item[]; choices: Choices; given: Record<string, number[]>;
  seen: Record<string, Record<string, Seen>>; undo: number; redo: number;
}
export interface Film { name: string; size: [number, number]; count: number; rate: number; tracking: boolean; project: Project }
export interface Hello { files: string[]; bundles: string[]; film: Film | null }
export interface Progress { frame: number; fps: number; left: number; runs_on: string; seen: Record<string, Seen> }
