"""Many clips through many processes: Ray starts them, retries them and moves what they need."""

from __future__ import annotations

import heapq
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from ..errors import DeviceError, JointError, OutputError, SettingsError
from ..runtime.backends import Name, choose, split_backend
from ..runtime.bundle import Bundle
from ..runtime.settings import available_cores
from ..runtime.worker_shape import WorkerShape, guessed_shape, kept_shape
from .cluster import first_line, ray_cluster
from .formats import FORMATS
from .report import Report
from .stores import is_web, open_store, reason, told_of
from .table import NAME, Clip, Names, read_clips, read_names
from .worker import PARTS, Plan, Worker

LOOKAHEAD = 1024
"""Clips read ahead, of which the longest goes first."""
RETRIES = 2
"""Times that a clip, or loading the bundle, is tried again after its worker died."""
MOST_DEATHS = 3
"""Clips that, one after the other, end their workers so often, after which it is no clip's fault."""


class Watcher(Protocol):
    """Who is told of the progress."""

    def begin(self, total: int, workers: list[str]) -> None:
        """So many clips begin on these workers, each host:process."""

    def ended(self, row: dict[str, Any]) -> None:
        """A clip ended."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


def run_batch(
    inputs: str,
    plan: Plan,
    watcher: Watcher,
    *,
    address: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    worker: type[Worker] = Worker,
) -> Report:
    """Segment every clip of a table or data set.

    Args:
        inputs: see `table.read_clips`.
        plan: what the clips have in common; `request.threads` cores are held by each worker, see `shaped` for None.
        watcher: is told of the progress.
        address: of a Ray cluster; None starts one on this machine, and stops it.
        workers: processes; None for as many as there are cores or GPUs for, or as were found best.
        overwrite: replace earlier results; folders of clips that are not among these stay, and are told.
        worker: what does the work.

    Raises:
        DeviceError: workers died whatever they did.
        JointError: nothing could begin; a clip's own fault is told in the report.
    """
    if "://" not in plan.out:
        # A worker may stand in another folder.
        plan = replace(plan, out=str(Path(plan.out).absolute()))
    names = check_batch(inputs, plan, overwrite=overwrite)
    plan, workers, why = shaped(plan, workers, alone=address is None)
    if why:
        watcher.note(why)
    earlier = Earlier(*open_store(plan.out))
    if others := earlier.others(names):
        watcher.note(f"note: {plan.out} holds folders of clips that are not in {inputs}, which stay: {others}")
    try:
        cores = (workers or 0) * (plan.request.threads or 1) or available_cores()
        began = time.perf_counter()
        with ray_cluster(address, cores) as ray:
            known = _start(ray, worker, plan, workers, len(names))
            watcher.begin(len(names), list(known.values()))
            return _segment_all(ray, known, plan, inputs, watcher, earlier, time.perf_counter() - began)
    finally:
        # Workers are at work until Ray has ended.
        earlier.clear_parts()


def check_batch(inputs: str, plan: Plan, *, overwrite: bool) -> Names:
    """Refuse what cannot be done, before anything starts; the clips' names."""
    if plan.format not in FORMATS:
        raise SettingsError(f"format is {plan.format}: expected {', '.join(FORMATS)}")
    if plan.videos > 1 and plan.request.correct:
        raise SettingsError("--correct with --videos: clips that share a batch are not corrected; give one of the two")
    if plan.videos > 1 and plan.request.device == "cpu" and split_backend(plan.request.backend)[0] != Name.TORCH:
        raise SettingsError(
            f"--videos is {plan.videos} on the CPU, which follows one at a time: expected --device cuda"
        )
    Bundle.open(plan.request.bundle)
    _check_out(plan, overwrite=overwrite)
    return read_names(inputs)


def _check_out(plan: Plan, *, overwrite: bool) -> None:
    out = plan.out
    if out.startswith("memory://"):
        raise OutputError(f"{out} would be in a worker's memory, and end with it: expected a folder or s3://, gs://")
    if is_web(out):
        raise OutputError(f"{out} can be read only: expected a folder or s3://, gs://")
    files, root = open_store(out)
    if "file" in files.protocol:
        there = next(p for p in (Path(root), *Path(root).parents) if p.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            why = "may not be written in" if there.is_dir() else "is no folder"
            raise OutputError(f"{out} cannot be written: {there} {why}; expected a folder")
    with told_of(out, "cannot be reached", OutputError):
        held = not (plan.resume or overwrite) and files.exists(root) and files.ls(root)
    if held:
        raise OutputError(f"{out} holds files: --resume does what is missing, --overwrite replaces; or another -o")


def shaped(plan: Plan, workers: int | None, *, alone: bool) -> tuple[Plan, int | None, str]:
    """The plan with the threads of each worker, the number of workers, and a line that says why; empty if as asked.

    What is not given is what `jointrt bench --throughput` found best on this machine for the bundle, else a guess:
    workers of one thread each, as many as there are cores, or one for each GPU. The processes found best share a GPU,
    but where clips share a batch, which was not measured.

    Args:
        alone: whether all workers are on this machine; a cluster has as many as there is room for.
    """
    request = plan.request
    if request.threads is not None:
        return plan, workers, ""
    gpu = request.device != "cpu"
    if gpu and plan.videos > 1:
        return replace(plan, request=replace(request, threads=1)), workers, ""
    if not gpu and workers is not None and alone:
        threads = max(1, available_cores() // workers)
        return replace(plan, request=replace(request, threads=threads)), workers, ""
    bundle = Bundle.open(request.bundle)
    kept = kept_shape(bundle, choose(bundle, request.backend, None, request.device))
    shape = kept or (WorkerShape(1, 1) if gpu else guessed_shape())
    held = f"{shape} for each GPU" if gpu else str(shape) if alone else f"processes of {shape.each}"
    if kept is None:
        why = f"{held}, a guess: `jointrt bench --throughput` finds what is best here, and keeps it"
    else:
        why = f"{held}, the best that `jointrt bench --throughput` found here"
    share = 1 / shape.processes if gpu else 1.0
    plan = replace(plan, request=replace(request, threads=shape.threads), gpu_share=share)
    return plan, shape.processes if alone and not gpu else workers, why


class Earlier:
    """What the folder for the results held before.

    Attributes:
        clips: whether there are folders in it, which may be of clips.
    """

    def __init__(self, files: Any, root: str) -> None:
        self.files = files
        self.root = root.rstrip("/")
        there = files.ls(root, detail=True) if files.exists(root) else []
        folders = (PurePosixPath(entry["name"]).name for entry in there if entry["type"] == "directory")
        self._names = sorted(name for name in folders if NAME.fullmatch(name))
        self.clips = bool(self._names)

    def others(self, names: Names) -> str:
        """Folders that are of none of these clips, in words; empty if there is none."""
        found = [name for name in self._names if name not in names]
        return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")

    def holds(self, name: str) -> bool:
        """Whether a clip's folder is there."""
        return self.clips and bool(self.files.exists(f"{self.root}/{name}"))

    def clear_parts(self) -> None:
        """Remove what workers left that died."""
        if "file" in self.files.protocol:
            shutil.rmtree(Path(self.root, PARTS), ignore_errors=True)


def _start(ray: Any, worker: type[Worker], plan: Plan, workers: int | None, total: int) -> dict[Any, str]:
    """Actors that have loaded the bundle, and their names."""
    threads = plan.request.threads or 1
    gpu = plan.request.device != "cpu"
    have = ray.cluster_resources()
    room = int(have.get("CPU", 0)) // threads
    if gpu:
        room = min(room, int(have.get("GPU", 0)) * round(1 / plan.gpu_share))
    if room < (workers or 1):
        raise DeviceError(
            f"the cluster has room for {room} workers: expected {workers or 1}; fewer --workers or --threads"
        )
    remote = ray.remote(worker).options(
        num_cpus=threads,
        num_gpus=plan.gpu_share if gpu else 0,
        max_restarts=-1,
        max_task_retries=RETRIES,
        max_concurrency=plan.videos,
        scheduling_strategy="SPREAD",
    )
    actors = [remote.remote(plan) for _ in range(min(workers or room, total))]
    try:
        names = ray.get([actor.ready.remote() for actor in actors])
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, JointError) else DeviceError(first_line(error))) from None
    except ray.exceptions.RayError as error:
        raise DeviceError(
            f"a worker died {RETRIES + 1} times while it loaded {plan.request.bundle}: {first_line(error)}; is there "
            "memory for so many? fewer --workers need less"
        ) from None
    return dict(zip(actors, names, strict=True))


def _segment_all(
    ray: Any, known: dict[Any, str], plan: Plan, inputs: str, watcher: Watcher, earlier: Earlier, start_seconds: float
) -> Report:
    """Have the workers segment all clips; the report is kept however it ends."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="jointrt-") as scratch:
        report = Report(Path(scratch))
        try:
            for row in _rows(ray, inputs, known, plan.videos):
                if row["error"] is not None and earlier.holds(row["name"]):
                    row["error"] += "; its earlier result stays"
                report.add(row, time.perf_counter() - started)
                watcher.ended(row)
        finally:
            ready = f"{len(known)}, ready after {start_seconds:.1f} s"
            facts = {"workers": ready, "bundle": plan.request.bundle, "clips of": inputs, "results": plan.out}
            report.close(facts, time.perf_counter() - started)
            if report.counts:
                report.keep(plan.out)
    return report


def _rows(ray: Any, inputs: str, known: dict[Any, str], videos: int) -> Iterator[dict[str, Any]]:
    """Hand clips to workers as they become free, each with room for so many; a row for each as it ends."""
    pending: dict[Any, tuple[Any, Clip]] = {}
    free = list(known) * videos
    deaths = 0
    for clip in long_first(read_clips(inputs)):
        if clip.fault is not None:
            yield _failed(clip, clip.fault)
            continue
        if not free:
            actor, row = _next(ray, pending, known)
            free.append(actor)
            yield row
            deaths = deaths + 1 if row.get("died") else 0
            if deaths == MOST_DEATHS:
                raise DeviceError(f"workers died with {deaths} clips, one after the other: the last, {row['error']}")
        try:
            contents = _driver_only(clip)
        except OSError as error:
            yield _failed(clip, f"{clip.video} or its mask cannot be read: {reason(error)}")
            continue
        actor = free.pop()
        pending[actor.segment.remote(clip, contents)] = (actor, clip)
    while pending:
        yield _next(ray, pending, known)[1]


def _next(ray: Any, pending: dict[Any, tuple[Any, Clip]], known: dict[Any, str]) -> tuple[Any, dict[str, Any]]:
    (done,), _ = ray.wait(list(pending), num_returns=1)
    actor, clip = pending.pop(done)
    try:
        row = ray.get(done)
    except ray.exceptions.RayError as error:
        why = f"its worker died {RETRIES + 1} times: {first_line(error)}"
        return actor, _failed(clip, why) | {"worker": known[actor], "died": True}
    if row["worker"] != known[actor]:
        row["retried"] = f"{known[actor]} died"
        known[actor] = row["worker"]
    return actor, row


def long_first(clips: Iterator[Clip]) -> Iterator[Clip]:
    """The longest of the next `LOOKAHEAD` clips each time; those of unknown length first, in the table's order."""
    numbers = count()

    def entry(clip: Clip) -> tuple[float, int, Clip]:
        return (float("-inf") if clip.length is None else -clip.length, next(numbers), clip)

    heap = [entry(clip) for clip in islice(clips, LOOKAHEAD)]
    heapq.heapify(heap)
    for clip in clips:
        yield heapq.heapreplace(heap, entry(clip))[2]
    while heap:
        yield heapq.heappop(heap)[2]


def _driver_only(clip: Clip) -> dict[str, bytes]:
    """Files on `memory://`, which is this process's."""
    return {u: open_store(u)[0].cat_file(u) for u in (clip.video, clip.mask) if u.startswith("memory://")}


def _failed(clip: Clip, error: str) -> dict[str, Any]:
    return {"name": clip.name, "frames": 0, "objects": 0, "seconds": 0.0, "error": error}
