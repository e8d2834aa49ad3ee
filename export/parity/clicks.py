"""The gate of a click bundle: its graphs and its masks against the PyTorch network on the shipped clip."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...model.clicks import ClickNet
from ...runtime.clicks.bundle import ClickBundle
from ...runtime.clicks.prompts import Click, box_of, prompt_planes, snapped, window_about
from ...runtime.clicks.segmenter import ClickSegmenter, load_click_engines
from ...runtime.clicks.simulated import next_click
from ...runtime.cpu.onnxruntime_engine import Buffer, Runnable
from ...runtime.manifest import ClosedLoop, Parity
from ...runtime.settings import available_cores
from ...runtime.video.overlap import mask_iou
from ..graphs.clicks import CLICK_GRAPHS
from ..graphs.graph import Graph
from .graphs import OBJECTS, compare_graph, read_clip

CLICKS = 3
"""Of the closed loop, after one of a box."""


def measure_clicks(bundle: ClickBundle, net: ClickNet) -> Parity:
    """Graphs, and a closed loop of a box and of clicks on the clip's first frame."""
    (frame,), labels = read_clip(1)
    engines = load_click_engines(bundle, available_cores())
    with torch.inference_mode():
        values = _sample(net, frame, labels == OBJECTS[0])
        graphs = [compare_graph(engines[kind.name], kind(net), values) for kind in CLICK_GRAPHS]
        loop = _closed_loop(bundle, net, frame, labels)
    return Parity(graphs=tuple(graphs), closed_loop=loop)


def _sample(net: ClickNet, frame: NDArray[np.uint8], region: NDArray[np.bool_]) -> dict[str, Tensor]:
    """Real values for every input of both graphs."""
    side, shape = net.config.crop, region.shape
    box = box_of(region)
    assert box is not None
    window = snapped(window_about(box, (shape[0], shape[1])), (shape[0], shape[1]))
    click = next_click(region, np.zeros_like(region))
    assert click is not None
    previous = window.cut_mask(region.astype(np.float32), side) * 0.8
    planes = prompt_planes(window, side, [click, Click(box[0], box[1], positive=False)], box, previous)
    crop = torch.from_numpy(window.cut(frame, side).transpose(2, 0, 1).astype(np.float32))[None]
    values = {"crop": crop, "prompts": torch.from_numpy(planes)[None]}
    return values | CLICK_GRAPHS[0](net).named(values)


class TorchGraph:
    """A graph of the network in PyTorch, where an engine is expected."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    @torch.inference_mode()
    def run(self, inputs: dict[str, Buffer], outputs: dict[str, Buffer]) -> None:  # type: ignore[override]
        """Read the inputs' memory, fill the outputs'."""
        for name, tensor in self.graph.named({n: torch.from_numpy(b.array) for n, b in inputs.items()}).items():
            outputs[name].array[...] = tensor.numpy()


def reference_click_segmenter(bundle: ClickBundle, net: ClickNet) -> ClickSegmenter:
    """The click segmenter with the PyTorch network in the engines' place."""
    engines: dict[str, Runnable] = {kind.name: TorchGraph(kind(net)) for kind in CLICK_GRAPHS}  # type: ignore[misc]
    return ClickSegmenter(bundle, engines)


def _closed_loop(bundle: ClickBundle, net: ClickNet, frame: NDArray[np.uint8], labels: NDArray[np.uint8]) -> ClosedLoop:
    tested, reference = ClickSegmenter.load(bundle.folder), reference_click_segmenter(bundle, net)
    for segmenter in (tested, reference):
        segmenter.set_image(frame)
    scores = []
    for object_id in OBJECTS:
        region = labels == object_id
        box = box_of(region)
        scores.append(mask_iou(tested.predict(box=box) > 0.5, reference.predict(box=box) > 0.5))
        clicks: list[Click] = []
        mask = None
        for _ in range(CLICKS):
            click = next_click(region, np.zeros_like(region) if mask is None else mask > 0.5, clicks)
            clicks += [] if click is None else [click]
            mask, other = reference.predict(clicks, mask=mask), tested.predict(clicks, mask=mask)
            scores.append(mask_iou(mask > 0.5, other > 0.5))
    return ClosedLoop(frames=len(scores), mean_iou=float(np.mean(scores)), min_iou=float(min(scores)))


def with_side(net: ClickNet, side: int) -> ClickNet:
    """The same weights for another crop."""
    other = ClickNet(dataclasses.replace(net.config, crop=side))
    other.load_state_dict(net.state_dict())
    return other.eval()
