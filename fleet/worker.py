"""One process that segments whole clips, one after the other."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import JointError, OutputError, VideoError
from ..runtime.job.quiet import Quiet
from ..runtime.job.run import Job, Outcome, Request
from .formats import convert_masks
from .inputs import fetch, mark
from .stores import open_store, reason
from .table import Clip

if TYPE_CHECKING:
    from .seats import Seats

DONE = "done.json"
"""Written last into a clip's folder: where it is, the result is whole."""
PARTS = ".parts"
"""Folder in a local OUT in which results are made, before they are renamed into place."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What all clips have in common.

    Attributes:
        request: bundle and settings; its source, mask and out are not read.
        out: path or URL of the folder for the results.
        format: see `formats.FORMATS`.
        resume: leave what is there.
        videos: clips of one frame size that share a worker's batch.
        gpu_share: of a GPU that a worker holds.
    """

    request: Request
    out: str
    format: str
    resume: bool
    videos: int = 1
    gpu_share: float = 1.0


class Worker:
    """Holds the engines; is an actor of Ray, with as many threads as clips share a batch."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._loaded: tuple[Seats, dict[str, Any]] | None = None
        self._loading = threading.Lock()

    @property
    def loaded(self) -> tuple[Seats, dict[str, Any]]:
        """The bundle, loaded at the first call: one that ends the process then ends a call, whose tries are bounded."""
        with self._loading:
            if self._loaded is None:
                from .seats import load_seats

                self._loaded = load_seats(self.plan.request.bundle, self.plan.request, self.plan.videos)
            return self._loaded

    def ready(self) -> str:
        """Load the bundle.

        Returns:
            Host and process.

        Raises:
            JointError: it cannot be used here.
        """
        assert self.loaded
        return self.name

    def segment(self, clip: Clip, contents: Mapping[str, bytes]) -> dict[str, Any]:
        """Segment a clip and put its result in place; what fails is told, not raised.

        Args:
            clip: a sound row.
            contents: files that only the driver can read, by URL.

        Returns:
            A row of the report.
        """
        began = time.perf_counter()
        row: dict[str, Any] = {"name": clip.name, "frames": 0, "objects": 0, "error": None}
        try:
            row |= self._segment(clip, contents)
        except JointError as error:
            row["error"] = str(error)
        except Exception as error:
            # A library's own failure, of storage for one, ends this clip only.
            row["error"] = f"{getattr(error, 'filename', None) or type(error).__name__}: {reason(error)}"
        return row | {
            "seconds": round(time.perf_counter() - began, 3),
            "worker": self.name,
            "bundle": self.plan.request.bundle,
        }

    def _segment(self, clip: Clip, contents: Mapping[str, bytes]) -> dict[str, Any]:
        files, root = open_store(self.plan.out)
        target = f"{root.rstrip('/')}/{clip.name}"
        asked = self._asked(clip, contents)
        if self.plan.resume and files.exists(f"{target}/{DONE}"):
            held = json.loads(files.cat_file(f"{target}/{DONE}"))
            if {key: held.get(key) for key in asked} != json.loads(json.dumps(asked)):
                raise OutputError(f"{target} holds the result of another request: --overwrite, or another -o")
            return {"frames": held["frames"], "objects": held["objects"], "state": "present"}
        local = "file" in files.protocol
        with tempfile.TemporaryDirectory(prefix="jointrt-") as scratch:
            folder = Path(scratch)
            # Beside the target, so that it can be renamed into place.
            result = Path(root, PARTS, clip.name, str(os.getpid())) if local else folder / "result"
            if local:
                # All clips' at once: none of them may remove it from under another when it fails.
                Path(root, PARTS).mkdir(parents=True, exist_ok=True)
            # What a worker left that died.
            shutil.rmtree(result.parent if local else result, ignore_errors=True)
            try:
                outcome = self._run(clip, contents, folder, result)
                _drop_times(result / "report.json")
                convert_masks(result, self.plan.format)
                done = {**asked, "frames": outcome.frames, "objects": outcome.objects}
                (result / DONE).write_text(json.dumps(done, indent=1, sort_keys=True) + "\n", encoding="utf-8")
                _put_in_place(files, result, target, local)
            finally:
                shutil.rmtree(result.parent if local else result, ignore_errors=True)
        return {"frames": outcome.frames, "objects": outcome.objects, "state": "segmented"}

    def _asked(self, clip: Clip, contents: Mapping[str, bytes]) -> dict[str, Any]:
        """All that decides a clip's result, as JSON can hold it; where its times lie is none of it."""
        row = {name: getattr(clip, name) for name in ("name", "video", "mask", "start", "end", "every")}
        request = self.plan.request
        return {
            "clip": row,
            "inputs": {url: mark(url, contents) for url in (clip.video, clip.mask)},
            "identity": self.loaded[1],
            "reading": {name: getattr(request, name) for name in ("correct", "backward", "hard_mask", "keep_255")},
            "overlay": request.overlay,
            "format": self.plan.format,
        }

    def _run(self, clip: Clip, contents: Mapping[str, bytes], folder: Path, result: Path) -> Outcome:
        request = replace(
            self.plan.request,
            source=fetch(clip.video, folder / "video", contents),
            mask=fetch(clip.mask, folder / "mask", contents),
            out=result,
            start=clip.start,
            end=clip.end,
            every=clip.every,
            resumable=False,
        )
        seats, identity = self.loaded
        job = Job.prepare(request)
        with seats.seat(job.source.size) as segmenter:
            outcome = job.run(segmenter, identity, Quiet())
        if outcome.interrupted:
            raise JointError("the worker was told to stop")
        if outcome.damage is not None:
            raise VideoError(outcome.damage)
        return outcome


def _drop_times(file: Path) -> None:
    """The same clip gives the same bytes; the batch's report has the times."""
    told = json.loads(file.read_text(encoding="utf-8"))
    told.pop("seconds", None)
    file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _put_in_place(files: Any, result: Path, target: str, local: bool) -> None:
    if local:
        if Path(target).exists():
            shutil.rmtree(target)
        result.rename(target)
        return
    if files.exists(target):
        # The mark goes first: what is half replaced is not whole.
        if files.exists(f"{target}/{DONE}"):
            files.rm_file(f"{target}/{DONE}")
        files.rm(target, recursive=True)
    parts = sorted(p for p in result.rglob("*") if p.is_file() and p.name != DONE)
    # At once: one after the other, hundreds of masks would take as long as their clip.
    files.put([str(part) for part in parts], [f"{target}/{part.relative_to(result).as_posix()}" for part in parts])
    files.put_file(str(result / DONE), f"{target}/{DONE}")
