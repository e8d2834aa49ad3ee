"""The gate every bundle passes: its graphs and its masks against the PyTorch network on a real clip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import BundleError
from ...model.network import JointNet
from ...runtime.backends import Choice, choose
from ...runtime.bundle import Bundle
from ...runtime.cpu.loading import load_engine
from ...runtime.cpu.onnxruntime_engine import Buffer, Runnable
from ...runtime.manifest import ClosedLoop, GraphParity, Parity
from ...runtime.segmenter import Segmenter, load_tracking
from ...runtime.settings import Settings, available_cores
from ...runtime.tracking.crop import cut_image, cut_mask, place_window, vector
from ...runtime.video.masks import read_label_map
from ...runtime.video.overlap import mask_iou
from ...runtime.video.sources import open_source
from ..graphs.graph import Graph
from ..graphs.grown_memory import GRAPHS
from .reference import geometry_of, reference_segmenter

MAX_REL_L2 = 1e-4
"""Largest relative L2 error of a graph's output, fp32."""
MIN_IOU = 0.995
"""Smallest IoU of a closed-loop mask."""
LIMITS: Final = {"fp32": (1e-3, 0.995), "fp16": (0.05, 0.99), "int8": (0.2, 0.9)}
"""The same of engines on a device, by precision."""
CLIP = Path(__file__).resolve().parents[2] / "examples" / "dog.mp4"
"""The clip that ships with the package."""
OBJECTS = (1, 2)
"""Of the clip, those that graphs are fed with."""
CLIP_MASK = CLIP.with_suffix(".png")
FRAMES = 8
"""Frames of the closed loop."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Two crops of the clip, RGB 0..255 (2, 3, H, W), and the masks of two objects in them (2, 1, H, W)."""

    crops: Tensor
    masks: Tensor


def read_clip(frames: int) -> tuple[list[NDArray[np.uint8]], NDArray[np.uint8]]:
    """The shipped clip's first frames and its first label map."""
    return [frame.image for frame in open_source(CLIP).frames(0, frames)], read_label_map(CLIP_MASK)


def real_sample(crop_size: tuple[int, int]) -> Sample:
    """Crops of the shipped clip's first frame about both objects."""
    (frame,), labels = read_clip(1)
    crops, masks = [], []
    for object_id in OBJECTS:
        mask = (labels == object_id).astype(np.float32)
        centre = vector([axis.mean() for axis in np.nonzero(mask)])
        window = place_window(mask.shape, centre, 0.8 * vector(mask.shape), crop_size, keep_inside=True)
        crops.append(cut_image(frame, window, crop_size).transpose(2, 0, 1))
        masks.append(cut_mask(mask, window, crop_size)[None])
    return Sample(torch.from_numpy(np.stack(crops)), torch.from_numpy(np.stack(masks)))


def graph_inputs(net: JointNet, sample: Sample) -> dict[str, Tensor]:
    """Real values for every input of every graph, by name, for two objects; memory frames are the two crops' own."""
    values: dict[str, Tensor] = {"crop": sample.crops, "mask": sample.masks}
    order = {graph.name: graph(net) for graph in GRAPHS}

    def run(name: str) -> None:
        values.update(order[name].named(values))

    run("backbone")
    run("label_encoder")
    run("transformer_query")
    swapped = {name: values[name].flip(0) for name in ("C", "D", "key", "x_tra")}
    values |= {"z": values["x_tra"], "z_new": swapped["x_tra"], "key_new": swapped["key"]}
    values |= {"C_new": swapped["C"], "D_new": swapped["D"]}
    # A frame that leaves must have entered: add it first, under the ports of a new one.
    old = {"z_new": values["z"] * 0.9, "key_new": values["key"].roll(7, 1)}
    values |= {"z_old": old["z_new"], "key_old": old["key_new"]}
    entered = order["memory_add"].named({**values, **old})
    for name in ("C", "D"):
        values[f"{name}_old"] = entered[f"{name}_next"] - values[name]
        values[name] = entered[f"{name}_next"]
    run("memory_encode")
    run("memory_read")
    values["E_tra_several"] = torch.cat((values["E_tra"], values["E_tra"].flip(-1)), -1)
    values["E_tra_star"] = values["numerator"] / values["denominator"]
    for name, source in (("z_ind", "x_ind"), ("E_ind_all", "E_ind"), ("W_all", "W")):
        values[name] = torch.stack((values[source], values[source].roll(11, 1)), dim=1)
    values["sample_weights"] = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    config = net.config
    values["omega"] = torch.zeros(2, config.filter_size**2 * config.encoding_channels, config.feature_channels)
    for _ in range(2):
        run("few_shot_residual")
        run("few_shot_step")
        values["omega"] = values["omega_next"]
    return values


def graph_parity(bundle: Bundle, net: JointNet, choice: Choice | None = None) -> Iterator[GraphParity]:
    """Each graph of a bundle against its module, largest error over the outputs; in ONNX Runtime, or by a choice."""
    choice = choice or choose(bundle, "onnxruntime")
    with torch.inference_mode():
        values = graph_inputs(net, real_sample(net.config.crop_size))
        for kind in GRAPHS:
            if kind.name in bundle.manifest.graphs:
                engine = load_engine(bundle, choice, kind.name, available_cores(), len(OBJECTS))
                yield compare_graph(engine, kind(net), values)


def compare_graph(engine: Runnable, graph: Graph, values: dict[str, Tensor]) -> GraphParity:
    """A graph as an engine runs it against its module, on inputs by name."""
    inputs = {port.name: values[port.name].contiguous().numpy() for port in graph.inputs()}
    expected = {name: tensor.numpy() for name, tensor in graph.named(values).items()}
    return worst(graph.name, call_errors(engine, inputs, expected))


def call_errors(
    engine: Runnable, inputs: Mapping[str, NDArray[np.float32]], expected: Mapping[str, NDArray[np.float32]]
) -> list[tuple[float, float, float]]:
    """`differences` of each output of one call, by name as the inputs are."""
    results = {name: Buffer(np.zeros(array.shape, np.float32)) for name, array in expected.items()}
    engine.run({name: Buffer(array) for name, array in inputs.items()}, results)
    return [differences(results[name].array, array) for name, array in expected.items()]


def worst(graph: str, errors: Sequence[tuple[float, float, float]]) -> GraphParity:
    """The largest of several `differences`; NaN where any is, which Python's own max would pass over."""
    largest, relative, cosine = np.array(errors).T
    return GraphParity(
        graph=graph, max_abs=float(largest.max()), rel_l2=float(relative.max()), cosine=float(cosine.min())
    )


def differences(found: NDArray[np.float32], expected: NDArray[np.float32]) -> tuple[float, float, float]:
    """Largest absolute difference, relative L2 error and cosine similarity."""
    a, b = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    norm = np.linalg.norm(b) or 1.0
    cosine = float(a @ b / (np.linalg.norm(a) * norm)) if a.any() else 0.0
    return float(np.abs(a - b).max()), float(np.linalg.norm(a - b) / norm), cosine


def closed_loop(bundle: Bundle, net: JointNet, choice: Choice | None = None) -> ClosedLoop:
    """Masks of the shipped clip: the bundle, as a choice runs it, against the PyTorch network's released algorithm.

    A small memory and a short interval let it grow, fill and be replaced within a few frames. The crops are cut alike
    (see `Segmenter.align`).
    """
    settings = Settings.resolve(bundle.manifest.defaults, memory=min(2, bundle.manifest.defaults.memory), interval=2)
    tested = Segmenter(*load_tracking(bundle, choice or choose(bundle), settings))
    return compare_loops(tested, reference_segmenter(net, settings))


def compare_loops(tested: Segmenter, reference: Segmenter) -> ClosedLoop:
    """Both over the shipped clip's first frames, the reference's crops cut as the other's (see `Segmenter.align`)."""
    frames, labels = read_clip(FRAMES)
    scores = []
    for t, frame in enumerate(frames):
        mask = labels if t == 0 else None
        reference.align(tested)
        a, b = tested.step(frame, mask), reference.step(frame, mask)
        if t:
            scores += [mask_iou(a == i, b == i) for i in reference.object_ids]
    return ClosedLoop(frames=len(frames), mean_iou=float(np.mean(scores)), min_iou=float(min(scores)))


def measure(bundle: Bundle, net: JointNet, choice: Choice | None = None) -> Parity:
    """Graphs and closed loop, the graphs in ONNX Runtime unless chosen otherwise.

    Raises:
        BundleError: the bundle was made for another network.
    """
    config = net.config
    if bundle.manifest.geometry != geometry_of(config):
        raise BundleError(f"{bundle.folder} was not made for these weights: geometry {bundle.manifest.geometry}")
    return Parity(graphs=tuple(graph_parity(bundle, net, choice)), closed_loop=closed_loop(bundle, net, choice))


def failures(parity: Parity, precision: str = "") -> list[str]:
    """What is over its tolerance, in words; of engines on a device by their precision, see `LIMITS`."""
    largest, least = LIMITS[precision] if precision else (MAX_REL_L2, MIN_IOU)
    found = graph_failures(parity.graphs, largest, f" in {precision}" if precision else "")
    loop = parity.closed_loop
    if not loop.min_iou >= least:
        found.append(f"closed loop: smallest mask IoU {loop.min_iou:.4f}, at least {least} expected")
    return found


def graph_failures(graphs: Sequence[GraphParity], largest: float, where: str = "") -> list[str]:
    """Graphs whose relative L2 error is over the largest that is allowed, or no number, in words."""
    return [
        f"{g.graph}: relative L2 error {g.rel_l2:.1e}, at most {largest:.0e} allowed{where}"
        for g in graphs
        if not g.rel_l2 <= largest
    ]
