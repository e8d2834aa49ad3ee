"""One WebSocket: one stream, one segmenter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..errors import JointError, MaskError, SettingsError
from ..runtime.segmenter import Segmenter
from .limits import Limits
from .messages import Open, decode_frame, label_message, read_frame, read_open
from .metrics import Metrics
from .pool import SegmenterPool
from .waiting import Received, Waiting

POLICY = 1008
"""WebSocket close code for a client that does what it may not."""
END = "end"
Result = TypeVar("Result")


class Stream:
    """A session from its opening to its end; whatever its client sends, it ends alone."""

    def __init__(
        self, socket: WebSocket, limits: Limits, pool: SegmenterPool, metrics: Metrics, threads: Executor
    ) -> None:
        self.socket = socket
        self.limits = limits
        self.pool = pool
        self.metrics = metrics
        self.threads = threads
        self.asked = Open()
        self.frames = self.dropped = 0

    async def run(self) -> None:
        """Talk to the client until it ends, hangs up, breaks a rule or is too late."""
        try:
            async with asyncio.timeout(self.limits.longest) as life:
                await self._session()
        except WebSocketDisconnect:
            pass
        except TimeoutError:
            late = f"the session lasted {self.limits.longest:g} s" if life.expired() else "nothing came or was read"
            await self._refuse(f"{late}: open another")
        except JointError as error:
            await self._refuse(str(error))
        except Exception as error:
            # A library's own failure must not reach other streams; its text may show what is not the client's.
            await self._refuse(f"the server failed: {type(error).__name__}")
            raise

    async def _session(self) -> None:
        self.asked = read_open(await self._receive_first())
        if self.asked.behind > self.limits.behind:
            raise SettingsError(f"behind is {self.asked.behind}: expected 1 to {self.limits.behind}")
        key = self.pool.key(self.asked)
        whole = False
        try:
            segmenter = await self._in_thread(partial(self.pool.take, key))
            await self._send({"kind": "opened", "bundle": key[0], "runs_on": segmenter.runs_on})
            waiting = Waiting(self.asked.behind, drop=self.asked.full == "drop")
            await _both(self._receive(waiting), self._answer(segmenter, waiting))
            whole = True
        finally:
            if whole:
                self.pool.give_back(key, segmenter)
            else:
                self.pool.give_up()
        await self._send({"kind": "ended", "frames": self.frames, "dropped": self.dropped})
        await self.socket.close()

    async def _receive_first(self) -> str | None:
        async with asyncio.timeout(self.limits.idle):
            return (await self._message()).get("text")

    async def _receive(self, waiting: Waiting) -> None:
        """Read frames, no more in a second than the limit."""
        last, due = -1, time.monotonic()
        while True:
            async with asyncio.timeout(self.limits.idle):
                message = await self._message()
            data = message.get("bytes")
            if data is None:
                if message.get("text") != END:
                    raise SettingsError(f"the text is not known: expected binary frames, or {END!r}")
                await waiting.end()
                return
            header, body = read_frame(data)
            if header.id <= last:
                raise SettingsError(f"frame {header.id} comes after {last}: expected ids that rise")
            last = header.id
            await waiting.put(Received(header, body))
            # The rate holds over a second, not from frame to frame.
            due = max(due + 1 / self.limits.rate, time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _message(self) -> Any:
        message = await self.socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        return message

    async def _answer(self, segmenter: Segmenter, waiting: Waiting) -> None:
        """Segment what waits, in order."""
        while (taken := await waiting.take()) is not None:
            frame, dropped = taken
            self.dropped += len(dropped)
            self.metrics.dropped.inc(len(dropped))
            answer = await self._in_thread(partial(self._segment, segmenter, frame, dropped))
            self.frames += 1
            self.metrics.frames.inc()
            self.metrics.latency.observe(time.perf_counter() - frame.at)
            async with asyncio.timeout(self.limits.idle):
                await self.socket.send_bytes(answer)

    def _segment(self, segmenter: Segmenter, frame: Received, dropped: list[int]) -> bytes:
        header = frame.header
        image, mask = decode_frame(header, frame.body, self.limits.pixels)
        for number in header.remove:
            segmenter.remove(number)
        if mask is not None:
            objects = {*segmenter.object_ids, *np.unique(mask[mask > 0]).tolist()}
            if len(objects) > self.limits.objects:
                raise MaskError(f"{len(objects)} objects are to be followed: expected at most {self.limits.objects}")
        labels = segmenter.step(image, mask, correct=header.correct)
        told = {"id": header.id, "dropped": dropped, "objects": segmenter.object_ids}
        return label_message(told, labels, self.asked.labels)

    async def _in_thread(self, job: Callable[[], Result]) -> Result:
        running = asyncio.get_running_loop().run_in_executor(self.threads, job)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # A step that has begun cannot be called off.
            await asyncio.wait([running])
            raise

    async def _send(self, message: dict[str, Any]) -> None:
        async with asyncio.timeout(self.limits.idle):
            await self.socket.send_json(message)

    async def _refuse(self, text: str) -> None:
        self.metrics.failed.inc()
        try:
            async with asyncio.timeout(1.0):
                await self.socket.send_json({"kind": "error", "text": text})
                await self.socket.close(POLICY)
        except (RuntimeError, TimeoutError, WebSocketDisconnect):
            # It hung up, or does not read.
            pass


async def _both(first: Coroutine[Any, Any, None], second: Coroutine[Any, Any, None]) -> None:
    """Run two tasks to their ends; the first failure ends the other."""
    tasks = [asyncio.create_task(first), asyncio.create_task(second)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
