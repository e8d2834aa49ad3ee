"""Send a video to `jointrt serve` and keep its label maps: python live_client.py dog.mp4 dog.png out [ws://...]."""

import json
import struct
import sys
import threading
import time
from pathlib import Path

import av
from websockets.sync.client import connect


def stream(video, mask, out, url="ws://127.0.0.1:8765/stream", token="", **settings):
    """Seconds from each frame's sending to its label map, which lies in OUT, by number; settings as in `Open`."""
    out, sent, took = Path(out), {}, {}
    out.mkdir(parents=True, exist_ok=True)

    def send():
        with av.open(str(video)) as film:
            for number, picture in enumerate(film.decode(video=0)):
                first = b"" if number else Path(mask).read_bytes()
                size = [picture.height, picture.width]
                header = json.dumps({"id": number, "form": "raw", "size": size, "mask": len(first)}).encode()
                sent[number] = time.perf_counter()
                frame = picture.to_ndarray(format="rgb24").tobytes()
                socket.send(struct.pack("<I", len(header)) + header + first + frame)
        socket.send("end")

    with connect(url, additional_headers={"Authorization": f"Bearer {token}"}, max_size=None) as socket:
        socket.send(json.dumps({"full": "wait", **settings}))
        if json.loads(told := socket.recv())["kind"] == "opened":
            threading.Thread(target=send, daemon=True).start()
            while isinstance(told := socket.recv(), bytes):
                end = 4 + struct.unpack_from("<I", told)[0]
                number = json.loads(told[4:end])["id"]
                took[number] = time.perf_counter() - sent[number]
                (out / f"{number:05d}.png").write_bytes(told[end:])
        print(told)
    return took


if __name__ == "__main__":
    seconds = sorted(stream(*sys.argv[1:]).values())
    if seconds:
        median, p99 = (1000 * seconds[len(seconds) * share // 100] for share in (50, 99))
        print(f"median {median:.0f} ms, p99 {p99:.0f} ms")
