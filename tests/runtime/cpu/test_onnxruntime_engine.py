"""Engines in ONNX Runtime, and the memory of the process, as the system counts it."""

import gc
from pathlib import Path

import numpy as np
import pytest
from jointrt.runtime.bundle import Bundle
from jointrt.runtime.cpu.onnxruntime_engine import Buffer, Engine

pytest.importorskip("onnxruntime")
STATUS = Path("/proc/self/status")


def resident():
    """Kilobytes that the process wrote to."""
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))


@pytest.mark.skipif(not STATUS.exists(), reason="Linux tells what a process takes")
def test_the_scratch_memory_of_one_engine_is_the_next_ones():
    """A decoder takes some 20 MB beside its inputs of 3.6 MB; eight calls of four together take less."""
    bundle = Bundle.open(Path(__file__).resolve().parents[3] / "engines" / "lite")
    record = bundle.manifest.graphs["decoder"]
    inputs, outputs = (
        {port.name: Buffer(np.ones([1 if isinstance(n, str) else n for n in port.shape], np.float32)) for port in ports}
        for ports in (record.inputs, record.outputs)
    )
    engines = [Engine(bundle.path(record.file), record, threads=1) for _ in range(4)]
    gc.collect()
    grew = []
    for engine in engines * 2:
        before = resident()
        engine.run(inputs, outputs)
        grew.append(resident() - before)
    given = sum(buffer.array.nbytes for buffer in inputs.values()) / 1024
    assert sum(grew[1:]) < given, grew
