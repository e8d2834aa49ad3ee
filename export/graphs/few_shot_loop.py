"""All steps of steepest descent in one graph, for runtimes that cannot capture a CUDA graph: one call instead of many.

Put together from the exported graphs of the residual and of one step: tracing twenty steps takes minutes.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto
from onnx.compose import add_prefix

from ...runtime.manifest import GraphRecord
from ...runtime.settings import INITIAL_STEPS, UPDATE_STEPS

LOOPS = {"few_shot_start": INITIAL_STEPS, "few_shot_update": UPDATE_STEPS}
"""Names of the graphs and how many steps each takes: for a new object, at a memory update."""


def unroll(residual: ModelProto, step: ModelProto, steps: int, name: str) -> ModelProto:
    """The residual, then the steps; what a step gives is what the next one takes.

    Args:
        residual: the exported `few_shot_residual`.
        step: the exported `few_shot_step`.
        steps: how many.
        name: of the result, which gives `omega_next` for the residual's inputs.
    """
    loop = onnx.ModelProto.FromString(residual.SerializeToString())
    graph = loop.graph
    graph.name = name
    graph.ClearField("value_info")
    values = {port.name: port.name for port in (*graph.input, *graph.output)}
    for index in range(steps):
        part = add_prefix(step, f"step{index}_").graph
        taken = {f"step{index}_{port.name}": values[port.name] for port in step.graph.input}
        for node in part.node:
            node.input[:] = [taken.get(value, value) for value in node.input]
        graph.node.extend(part.node)
        graph.initializer.extend(part.initializer)
        values |= {port.name.removesuffix("_next"): f"step{index}_{port.name}" for port in step.graph.output}
    graph.ClearField("output")
    graph.output.extend(port for port in step.graph.output if port.name == "omega_next")
    graph.node.append(onnx.helper.make_node("Identity", [values["omega"]], ["omega_next"], name="learned"))
    onnx.checker.check_model(loop, full_check=True)
    return loop


def write_loops(folder: Path, records: dict[str, GraphRecord]) -> dict[str, GraphRecord]:
    """Write NAME.onnx of both loops beside the exported residual and step; their records, by name."""
    residual, step = records["few_shot_residual"], records["few_shot_step"]
    written = {}
    for name, steps in LOOPS.items():
        loop = unroll(onnx.load(folder / residual.file), onnx.load(folder / step.file), steps, name)
        onnx.save(loop, folder / f"{name}.onnx")
        outputs = tuple(port for port in step.outputs if port.name == "omega_next")
        written[name] = GraphRecord(file=f"{name}.onnx", inputs=residual.inputs, outputs=outputs)
    return written
