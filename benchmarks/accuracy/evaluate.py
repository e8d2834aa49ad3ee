"""Accuracy on a benchmark: sequences are segmented, or masks made elsewhere are read, and scored against the truth."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ...errors import DatasetError, DeviceError, JointError, MaskError, SettingsError, VideoError
from ...files import check_writable, replace_file
from ...runtime.bundle import Bundle
from ...runtime.device.readiness import choose_ready
from ...runtime.job.run import Display
from ...runtime.segmenter import Segmenter
from ...runtime.settings import available_cores
from ...runtime.video.masks import write_label_map
from .baselines import BASELINES, Follower
from .datasets import DatasetOptions, Sequence, few, sound_sequences
from .mask_folder import Identity, MaskFolder, check_results, write_submission
from .metrics import boundary_accuracy, region_similarity
from .score_page import WorstFrame, as_page, draw_difference, worst_frames
from .scores import Figures, ObjectScore, as_csv, mean_figures

SUBMISSION = "submission.zip"
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest(DatasetOptions):
    """What to evaluate, `DatasetOptions` included; `threads` are those of all processes together.

    Attributes:
        bundle: name or folder of the bundle to run; `lite` if neither this nor `results` nor `baseline` is given.
        results: folder of masks made elsewhere, `SEQUENCE/FRAME.png`.
        baseline: name of one of `BASELINES`.
        processes: sequences at a time; chosen by the cores if None.
        out: folder for the masks; for YouTube-VOS the archive to hand in too.
        resume: keep the sequences that `out` holds complete.
        overwrite: replace what `out` holds.
        csv: file for the figures.
        html: file for the page.
    """

    bundle: str | None = None
    results: Path | None = None
    baseline: str | None = None
    processes: int | None = None
    out: Path | None = None
    resume: bool = False
    overwrite: bool = False
    csv: Path | None = None
    html: Path | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out.

    Attributes:
        scores: all objects that have truth, by sequence and id.
        facts: what was evaluated and how, by name.
        unscored: names of the sequences without truth.
        submission: the archive; None if there is none.
        left_out: names of the sequences that do not fit, or failed on the way.
    """

    scores: tuple[ObjectScore, ...]
    facts: dict[str, str]
    unscored: tuple[str, ...]
    submission: Path | None
    left_out: tuple[str, ...]

    @property
    def mean(self) -> Figures:
        """Mean over the objects; there must be one."""
        return mean_figures(self.scores)


def evaluate(request: EvaluationRequest, display: Display) -> Evaluation:
    """Check everything, then segment and score.

    With more than one process, a script calls it under `if __name__ == "__main__":`, because processes are spawned.

    Raises:
        JointError: what the user gave does not fit; masks of complete sequences are kept.
    """
    _check(request)
    maker = _maker(request)
    dataset = request.open()
    sequences, left_out = sound_sequences(dataset, request.sequences)
    for why in left_out.values():
        display.note(f"left out: {why}")
    for note in _notes(sequences):
        display.note(note)
    unscored = tuple(sequence.name for sequence in sequences if not sequence.scored)
    _refuse_without_truth(request, sequences, unscored)
    if request.results is not None:
        check_results(request.results, sequences)
    jobs = _jobs(request, maker, sequences)
    if unscored:
        count = f"{len(unscored)} of {len(sequences)} sequences"
        display.note(f"not scored, as nothing but the given masks is annotated: {count}: {few(unscored)}")
    if maker.get("backend", "onnxruntime") != "onnxruntime":
        display.note(f"runs with the backend {maker['backend']} on {maker['device']}")
    display.begin(sum(job.frames for job in jobs), 0)
    outcomes = _run_all(request, jobs, display)
    for job, outcome in zip(jobs, outcomes, strict=True):
        if outcome.failure is not None:
            left_out[job.sequence.name] = str(outcome.failure)
            display.note(f"left out: {outcome.failure}")
    if all(outcome.failure is not None for outcome in outcomes):
        raise next(outcome.failure for outcome in outcomes if outcome.failure is not None)
    sequences = [sequence for sequence in sequences if sequence.name not in left_out]
    scores = tuple(score for outcome in outcomes for score in outcome.scores)
    facts = {
        "data set": str(request.root),
        "masks": ", ".join(f"{name} {str(value)[:12] if name == 'sha256' else value}" for name, value in maker.items()),
        "sequences": str(len(sequences)),
        "frames scored": str(sum(len(score.frames) for score in scores)),
    } | ({"left out": few(left_out)} if left_out else {})
    if request.csv is not None:
        replace_file(request.csv, as_csv(scores).encode(errors="backslashreplace"))
    if request.html is not None:
        worst = [picture for outcome in outcomes for picture in outcome.worst]
        page = as_page(f"J and F on {request.root.resolve().name}", facts, scores, worst)
        replace_file(request.html, page.encode(errors="backslashreplace"))
    submission = None
    if request.out is not None and dataset.makes_submission:
        submission = request.out / SUBMISSION
        write_submission(submission, sequences, request.out)
    return Evaluation(scores, facts, unscored, submission, tuple(left_out))


def _notes(sequences: list[Sequence]) -> Iterator[str]:
    """What of the data set has no effect."""
    for sequence in sequences:
        yield from (f"{sequence.name}: {note}" for note in sequence.images.notes)
    unused = [
        f"{s.name}/{frame}" for s in sequences for frame in s.annotations.keys() - set(s.required) - s.starts.keys()
    ]
    if unused:
        yield f"{len(unused)} annotations are not used, as meta.json does not list their frames: {few(sorted(unused))}"


def _check(request: EvaluationRequest) -> None:
    makers = [f"--{name}" for name in ("bundle", "results", "baseline") if getattr(request, name) is not None]
    if len(makers) > 1:
        raise SettingsError(f"{' and '.join(makers)} are given: the masks come from one of them, give one")
    if request.baseline is not None and request.baseline not in BASELINES:
        raise SettingsError(f"baseline is {request.baseline!r}: expected one of {', '.join(BASELINES)}")
    if request.results is not None and request.out is not None:
        raise SettingsError("--results and --out are given: with --results no masks are made; leave --out out")
    if (request.resume or request.overwrite) and request.out is None:
        raise SettingsError("--resume and --overwrite concern the masks in --out: give it")
    if request.resume and request.overwrite:
        raise SettingsError("--resume and --overwrite exclude each other: give one")
    for name in ("processes", "threads"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise SettingsError(f"{name} is {value}: expected 1 or more")
    check_writable(request.csv, request.html)


def _maker(request: EvaluationRequest) -> dict[str, Any]:
    """What makes the masks; checks the bundle and the settings."""
    if request.results is not None:
        return {"results": str(request.results)}
    if request.baseline is not None:
        return {"baseline": request.baseline}
    bundle = Bundle.open(request.bundle or "lite")
    settings = request.settings(bundle.manifest.defaults)
    choice = choose_ready(bundle, request.backend, None, request.device)
    used = {name: value for name, value in asdict(settings).items() if name != "threads"}
    used |= {"device": request.device, "backend": str(choice)}
    return {"bundle": bundle.folder.name, "sha256": bundle.fingerprint, **used}


def _refuse_without_truth(request: EvaluationRequest, sequences: list[Sequence], unscored: tuple[str, ...]) -> None:
    if len(unscored) < len(sequences):
        return
    for wanted, is_given in (
        ("--results", request.results is not None),
        ("--csv", request.csv is not None),
        ("--html", request.html is not None),
        ("a run without --out", request.out is None),
    ):
        if is_given:
            raise DatasetError(
                f"{request.root} has no truth beyond the given masks, which {wanted} needs: give the annotations of "
                "all frames, or only --out DIR to make masks to hand in"
            )


@dataclass(frozen=True, slots=True)
class _Job:
    """One sequence to work through.

    Attributes:
        sequence: its files.
        stored: folder of masks that are there already; None if they are to be made.
        identity: what makes them.
    """

    sequence: Sequence
    stored: Path | None
    identity: Identity

    @property
    def frames(self) -> int:
        """Number of label maps that will come."""
        if self.stored is not None:
            return len(self.sequence.required)
        return len(self.sequence.images.files) - self.sequence.first


def _jobs(request: EvaluationRequest, maker: dict[str, Any], sequences: list[Sequence]) -> list[_Job]:
    if request.results is not None:
        return [_Job(sequence, request.results / sequence.name, maker) for sequence in sequences]
    identities = {s.name: {**maker, "frames": s.images.fingerprint()} for s in sequences}
    complete: set[str] = set()
    if request.out is not None:
        folder = MaskFolder(request.out)
        complete = folder.prepare(identities, resume=request.resume, overwrite=request.overwrite)
        check_results(request.out, (s for s in sequences if s.name in complete))
    return [
        _Job(s, request.out / s.name if request.out and s.name in complete else None, identities[s.name])
        for s in sequences
    ]


@dataclass(frozen=True, slots=True)
class _Outcome:
    scores: tuple[ObjectScore, ...] = ()
    worst: tuple[WorstFrame, ...] = ()
    failure: JointError | None = None


class _StoppedError(Exception):
    """Another process failed, or the user stopped the evaluation."""


class _Worker:
    """Works through sequences, one after the other, with one follower."""

    def __init__(self, request: EvaluationRequest, threads: int, tick: Callable[[], None]) -> None:
        self.request = request
        self.threads = threads
        self.tick = tick
        self._follower: Follower | None = None

    def __call__(self, job: _Job) -> _Outcome:
        """Make or read the masks of a sequence and score them; of those made, one that cannot be ends no others."""
        if self.request.results is not None:
            return self._score(job)
        try:
            return self._score(job)
        except (DatasetError, MaskError, VideoError) as error:
            return _Outcome(failure=error)

    def _score(self, job: _Job) -> _Outcome:
        sequence = job.sequence
        scored = {i: frozenset(frames) for i, frames in sequence.scored.items()}
        pairs: dict[int, list[tuple[float, float]]] = {i: [] for i in scored}
        kept: dict[str, NDArray[np.uint8]] = {}
        for name, labels in self._label_maps(job):
            counting = [i for i, frames in scored.items() if name in frames]
            if counting:
                truth = sequence.truth(name)
                for i in counting:
                    pair = truth == i, labels == i
                    pairs[i].append((region_similarity(*pair), boundary_accuracy(*pair)))
                if self.request.html is not None:
                    kept[name] = cv2.imencode(".png", labels)[1]
            self.tick()
        scores = tuple(
            ObjectScore(sequence.name, i, sequence.scored[i], *zip(*values, strict=True)) for i, values in pairs.items()
        )
        worst = _draw_worst(sequence, scores, kept) if self.request.html is not None else ()
        return _Outcome(scores, tuple(worst))

    def _label_maps(self, job: _Job) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Frame names and label maps (H, W), in the frames' order."""
        sequence, out = job.sequence, self.request.out
        if job.stored is not None:
            for name in sequence.required:
                yield name, sequence.result(job.stored / f"{name}.png")
            return
        follower = self._ready_follower()
        with nullcontext() if out is None else MaskFolder(out).writing(sequence.name, job.identity) as folder:
            for frame in sequence.images.frames(start=sequence.first):
                labels = follower.step(frame.image, sequence.given(frame.name))
                if folder is not None:
                    write_label_map(folder / f"{frame.name}.png", labels)
                yield frame.name, labels

    def _ready_follower(self) -> Follower:
        if self._follower is None:
            self._follower = self._load_follower()
        self._follower.reset()
        return self._follower

    def _load_follower(self) -> Follower:
        request = self.request
        if request.baseline is not None:
            return BASELINES[request.baseline]()
        return Segmenter.load(request.bundle or "lite", **{**request.options(), "threads": self.threads})


def _draw_worst(
    sequence: Sequence, scores: Iterable[ObjectScore], kept: dict[str, NDArray[np.uint8]]
) -> Iterator[WorstFrame]:
    for score in scores:
        for number in worst_frames(score):
            name = score.frames[number]
            index = sequence.images.index_of(name)
            assert index is not None
            image = next(sequence.images.frames(start=index)).image
            labels = np.asarray(cv2.imdecode(kept[name], cv2.IMREAD_UNCHANGED), np.uint8)
            picture = draw_difference(image, sequence.truth(name) == score.object_id, labels == score.object_id)
            yield WorstFrame(
                score.sequence, score.object_id, name, score.region[number], score.boundary[number], picture
            )


def _run_all(request: EvaluationRequest, jobs: list[_Job], display: Display) -> list[_Outcome]:
    """Outcomes in the jobs' order."""
    cores = request.threads or available_cores()
    processes = min(len(jobs), request.processes or _suitable_processes(request, cores))
    threads = max(1, cores // processes)
    if processes == 1:
        worker = _Worker(request, threads, display.advance)
        return [worker(job) for job in jobs]
    return _spread(request, jobs, processes, threads, display)


def _suitable_processes(request: EvaluationRequest, cores: int) -> int:
    """A network gains from two cores at least, and a device is not shared; all else runs on one core."""
    if request.results is not None or request.baseline is not None:
        return cores
    return max(1, cores // 2) if request.device == "cpu" else 1


_worker: _Worker
"""The worker of a process that `_spread` started."""


def _start_process(request: EvaluationRequest, threads: int, done: Any, stop: Any) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(threads)

    def tick() -> None:
        if stop.is_set():
            raise _StoppedError
        with done.get_lock():
            done.value += 1

    _worker = _Worker(request, threads, tick)


def _end_with_parent() -> None:
    """A pool's processes outlive a parent that is killed, and wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_job(job: _Job) -> _Outcome:
    return _worker(job)


def _spread(
    request: EvaluationRequest, jobs: list[_Job], processes: int, threads: int, display: Display
) -> list[_Outcome]:
    """Run the jobs in processes, the longest first; the first failure stops all."""
    context = multiprocessing.get_context("spawn")
    done, stop = context.Value("L", 0), context.Event()
    shown = 0
    pool = concurrent.futures.ProcessPoolExecutor(processes, context, _start_process, (request, threads, done, stop))
    try:
        order = sorted(jobs, key=lambda job: -job.frames)
        futures = {job.sequence.name: pool.submit(_run_job, job) for job in order}
        pending = set(futures.values())
        while pending:
            finished, pending = concurrent.futures.wait(pending, POLL_SECONDS, concurrent.futures.FIRST_EXCEPTION)
            # Read once: the processes go on counting.
            counted = done.value
            for _ in range(counted - shown):
                display.advance()
            shown = counted
            for future in finished:
                future.result()
        return [futures[job.sequence.name].result() for job in jobs]
    except BrokenProcessPool:
        raise DeviceError(
            f"one of the {processes} processes was ended from outside, as when memory runs out: give fewer --processes"
        ) from None
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
