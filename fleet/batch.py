"""Many clips through many processes: Ray starts them, retries them and moves what they need."""

from __future__ import annotations

import heapq
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any, Protocol

from ..errors import DeviceError, OutputError, SettingsError
from ..runtime.bundle import Bundle
from .formats import FORMATS
from .report import Report
from .table import Clip, count_clips, read_clips
from .worker import Plan, Worker

LOOKAHEAD = 1024
"""Clips read ahead, of which the longest goes first."""
RETRIES = 2
"""Times that a clip is tried again after its worker died."""


class Watcher(Protocol):
    """Who is told of the progress."""

    def begin(self, total: int, workers: list[str]) -> None:
        """So many clips begin on these workers, each host:process."""

    def ended(self, row: dict[str, Any]) -> None:
        """A clip ended."""


def run_batch(
    inputs: str,
    plan: Plan,
    watcher: Watcher,
    *,
    address: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> Report:
    """Segment every clip of a table or data set.

    Args:
        inputs: see `table.read_clips`.
        plan: what the clips have in common; `request.threads` cores are held by each worker, one if it is None.
        watcher: is told of the progress.
        address: of a Ray cluster; None starts one on this machine, and stops it.
        workers: processes; None for as many as there are cores or GPUs for.
        overwrite: replace earlier results.

    Raises:
        JointError: nothing could begin; a clip's own fault is told in the report.
    """
    if "://" not in plan.out:
        # A worker may stand in another folder.
        plan = replace(plan, out=str(Path(plan.out).absolute()))
    total = check_batch(inputs, plan, overwrite=overwrite)
    began = time.perf_counter()
    with _ray(address, plan, workers) as ray, tempfile.TemporaryDirectory(prefix="jointrt-") as scratch:
        report = Report(Path(scratch))
        try:
            actors = _start(ray, plan, workers, total)
            names = ray.get([actor.ready.remote() for actor in actors])
            watcher.begin(total, names)
            for row in _rows(ray, inputs, dict(zip(actors, names, strict=True))):
                report.add(row, time.perf_counter() - began)
                watcher.ended(row)
        finally:
            report.close(time.perf_counter() - began)
            if report.counts:
                _keep(report, plan.out)
    return report


def check_batch(inputs: str, plan: Plan, *, overwrite: bool) -> int:
    """Refuse what cannot be done, before anything starts; the number of clips."""
    import fsspec

    if plan.format not in FORMATS:
        raise SettingsError(f"format is {plan.format}: expected {', '.join(FORMATS)}")
    if plan.out.startswith("memory://"):
        raise OutputError(
            f"{plan.out} would be in a worker's memory, and end with it: expected a folder or s3://, gs://"
        )
    Bundle.open(plan.request.bundle)
    files, root = fsspec.url_to_fs(plan.out)
    if not (plan.resume or overwrite) and files.exists(root) and files.ls(root):
        raise OutputError(f"{plan.out} holds files: --resume does what is missing, --overwrite replaces; or another -o")
    return count_clips(inputs)


@contextmanager
def _ray(address: str | None, plan: Plan, workers: int | None) -> Iterator[Any]:
    # Ray reads it as it is loaded, and reports usage where it is not set.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    if address is None:
        cores = (workers or 0) * (plan.request.threads or 1) or len(os.sched_getaffinity(0))
        ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    else:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise DeviceError(f"no Ray cluster answers at {address}: {error}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _start(ray: Any, plan: Plan, workers: int | None, total: int) -> list[Any]:
    threads = plan.request.threads or 1
    gpu = plan.request.device == "cuda"
    have = ray.cluster_resources()
    room = int(have.get("GPU", 0)) if gpu else int(have.get("CPU", 0)) // threads
    if room < (workers or 1):
        raise DeviceError(
            f"the cluster has room for {room} workers: expected {workers or 1}; fewer --workers or --threads"
        )
    remote = ray.remote(Worker).options(
        num_cpus=threads, num_gpus=int(gpu), max_restarts=-1, max_task_retries=RETRIES, scheduling_strategy="SPREAD"
    )
    return [remote.remote(plan) for _ in range(min(workers or room, total))]


def _rows(ray: Any, inputs: str, known: dict[Any, str]) -> Iterator[dict[str, Any]]:
    """Hand clips to workers as they become free; a row for each as it ends."""
    pending: dict[Any, tuple[Any, Clip]] = {}
    free = list(known)
    for clip in long_first(read_clips(inputs)):
        if clip.fault is not None:
            yield _failed(clip, clip.fault)
            continue
        if not free:
            actor, row = _next(ray, pending, known)
            free.append(actor)
            yield row
        try:
            contents = _driver_only(clip)
        except OSError as error:
            yield _failed(clip, f"cannot be read: {error}")
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
        return actor, _failed(clip, f"its worker died {RETRIES + 1} times: {str(error).splitlines()[0]}") | {
            "worker": known[actor]
        }
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
    import fsspec

    return {u: fsspec.url_to_fs(u)[0].cat_file(u) for u in (clip.video, clip.mask) if u.startswith("memory://")}


def _failed(clip: Clip, error: str) -> dict[str, Any]:
    return {"name": clip.name, "frames": 0, "objects": 0, "seconds": 0.0, "error": error}


def _keep(report: Report, out: str) -> None:
    import fsspec

    files, root = fsspec.url_to_fs(out)
    files.makedirs(root, exist_ok=True)
    for file in (report.lines, report.page):
        files.put_file(str(file), f"{root.rstrip('/')}/{file.name}")
