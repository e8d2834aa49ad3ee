"""Send a video to `jointrt serve`, keep its label maps: python live_client.py VIDEO MASK OUT [ws://...] [TOKEN]."""

import json
import sys
import threading
import time
from pathlib import Path

import av
from websockets.sync.client import connect


def stream(video, mask, out, url="ws://127.0.0.1:8765/stream", token="", **settings):
    """Milliseconds from each frame's sending to its label map, which lies in OUT, by number; settings as in `Open`."""
    sent, took = {}, {}
    Path(out).mkdir(parents=True, exist_ok=True)

    def send():
        for n, picture in enumerate(av.open(str(video)).decode(video=0)):
            first, frame = b"" if n else Path(mask).read_bytes(), picture.to_ndarray(format="rgb24").tobytes()
            header = {"id": n, "form": "raw", "size": (picture.height, picture.width), "mask": len(first)}
            text, sent[n] = json.dumps(header).encode(), time.perf_counter()
            socket.send(len(text).to_bytes(4, "little") + text + first + frame)
        socket.send("end")

    with connect(url, additional_headers={"Authorization": f"Bearer {token}"}, max_size=None) as socket:
        socket.send(json.dumps({"full": "wait", **settings}))
        if json.loads(told := socket.recv())["kind"] == "opened":
            threading.Thread(target=send, daemon=True).start()
            while isinstance(told := socket.recv(), bytes):
                end = 4 + int.from_bytes(told[:4], "little")
                n = json.loads(told[4:end])["id"]
                took[n] = 1000 * (time.perf_counter() - sent[n])
                Path(out, f"{n:05d}.png").write_bytes(told[end:])
        print(told)
    return took


if __name__ == "__main__":
    print(f"each within {max(stream(*sys.argv[1:]).values(), default=0):.0f} ms")
