"""What processes share of a bundle's weights: `python -m jointrt.benchmarks.services.shared_weights`.

The weights are laid beside the graphs (external data), so that a library may map them, and two processes load them at
the same time. Printed is, of each process and each way of loading: the weights' size; how much of their file is mapped
and resident afterwards, and shared with the other; and what the process has gained for itself alone. Linux only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import tempfile
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from ...runtime.bundle import Bundle
from ...runtime.cpu.onnxruntime_engine import import_onnxruntime
from ...runtime.cpu.openvino_engine import compile_model, shared_core
from ..speed.environment import private_and_shared_mb

PROCESSES = 2
SMALLEST = 1024
"""Bytes of the smallest tensor that is laid beside its graph."""


def lay_beside(bundle: Bundle, folder: Path) -> list[Path]:
    """Copies of a bundle's graphs that have weights, each with these in `NAME.data`."""
    import onnx

    for name, record in bundle.manifest.graphs.items():
        onnx.save_model(
            onnx.load(bundle.folder / record.file),
            folder / f"{name}.onnx",
            save_as_external_data=True,
            location=f"{name}.data",
            size_threshold=SMALLEST,
        )
    return sorted(path for path in folder.glob("*.onnx") if path.with_suffix(".data").is_file())


def _onnxruntime(path: Path, *, packed: bool) -> Any:
    library = import_onnxruntime()
    options = library.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if not packed:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return library.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _packed(path: Path) -> Any:
    return _onnxruntime(path, packed=True)


def _unpacked(path: Path) -> Any:
    return _onnxruntime(path, packed=False)


def _openvino(path: Path) -> Any:
    return compile_model(shared_core().read_model(str(path)), 1, "fp32", True)


WAYS: dict[str, Callable[[Path], Any]] = {
    "ONNX Runtime": _packed,
    "ONNX Runtime, session.disable_prepacking": _unpacked,
    "OpenVINO": _openvino,
}


def _measure(way: str, paths: list[Path], others: Barrier, told: SimpleQueue[dict[str, float]]) -> None:
    """What one process has once all have loaded."""
    load, folder = WAYS[way], paths[0].parent
    # The libraries themselves are loaded before.
    import_onnxruntime() if load is not _openvino else shared_core()
    before = private_and_shared_mb()
    held = [load(path) for path in paths]
    others.wait()
    after, mapped = private_and_shared_mb(), mapped_mb(folder)
    others.wait()
    assert before is not None and after is not None and held
    told.put({"own_mb": after[0] - before[0], "mapped_mb": sum(mapped), "mapped_shared_mb": mapped[1]})


def mapped_mb(folder: Path) -> tuple[float, float]:
    """MB resident of the mapped weights' files of a folder: this process's alone, and shared."""
    found, inside = [0, 0], False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(".data") and str(folder) in line
        elif inside and line.startswith(("Private_", "Shared_")):
            found[line.startswith("Shared_")] += int(line.split()[1])
    return found[0] * 1024 / 1e6, found[1] * 1024 / 1e6


def measure(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Figures as JSON can hold them, each the larger of the two processes'."""
    paths, spawn = lay_beside(bundle, folder), multiprocessing.get_context("spawn")
    ways = {}
    for way in WAYS:
        others, told = spawn.Barrier(PROCESSES), spawn.SimpleQueue()
        processes = [spawn.Process(target=_measure, args=(way, paths, others, told)) for _ in range(PROCESSES)]
        for process in processes:
            process.start()
        rows = [told.get() for _ in processes]
        for process in processes:
            process.join()
        ways[way] = {name: round(max(row[name] for row in rows), 1) for name in rows[0]}
    size = sum(path.with_suffix(".data").stat().st_size for path in paths)
    return {"bundle": bundle.folder.name, "weights_mb": round(size / 1e6, 1), "processes": PROCESSES, "ways": ways}


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="*", default=["lite", "lite-int8"], help="of ONNX graphs")
    found = []
    for name in parser.parse_args().bundles:
        with tempfile.TemporaryDirectory(prefix="jointrt-") as folder:
            found.append(measure(Bundle.open(name), Path(folder)))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
