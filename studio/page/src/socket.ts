// The WebSocket: JSON both ways, masks as binary messages.
import { say, state } from "./state";

let socket: WebSocket;

export function send(kind: string, more: object = {}) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ kind, frame: state.frame, ...more }));
}

export function connect(told: (message: any) => void, shown: (masks: ArrayBuffer) => void) {
  socket = new WebSocket(`ws://${location.host}/ws`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = (event) => event.data instanceof ArrayBuffer ? shown(event.data) : told(JSON.parse(event.data));
  socket.onclose = async (event) => {
    if (event.code !== 1006 && event.code >= 4000) say(event.reason, true);
    else if (await refused()) { say("the server was started again: open the link that it printed", true); return; }
    else say("the server has gone; what was done is saved, trying again", true);
    setTimeout(() => connect(told, shown), 1000);
  };
}

// Whether there is a server, which does not know this page's token.
async function refused(): Promise<boolean> {
  try { return (await fetch("./", { method: "HEAD" })).status === 403; } catch { return false; }
}
