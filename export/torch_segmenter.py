"""A whole video on one device with PyTorch: no build needed, every frame one replayed CUDA graph.

All state lies in tensors of fixed address: frame, probabilities, positions, memory and filters. A frame, and a memory
update, are functions of that state alone; on a GPU each is captured once and replayed, on the CPU it is called, which
is how it is compared with the other backends. Objects that appear in the same frame form a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..model.network import JointNet
from ..runtime.clock import StageClock
from ..runtime.cuda_devices import query_cuda_driver
from ..runtime.device_geometry import (
    DeviceWindow,
    cut_images,
    cut_masks,
    insert_sample,
    paste_logits,
    search_windows,
    soft_aggregation,
    update_state,
)
from ..runtime.errors import DeviceError, MaskError, SettingsError
from ..runtime.sample_weights import INITIAL_SHARE, LEARNING_RATE
from ..runtime.settings import INITIAL_STEPS, UPDATE_STEPS, Settings
from ..runtime.tracker import ObjectTracker
from .fixed_memory import (
    FixedResidualGraph,
    FixedStepGraph,
    MemoryReadAllGraph,
    MemoryUpdateGraph,
    ShiftedQueryGraph,
)
from .graphs import DecoderGraph, Graph, LabelEncoderGraph
from .reference import geometry_of

GIVEN = 100.0
"""Score of a pixel inside a given mask; its negative outside."""
BANKS = ("z_all", "key_all", "C_all", "D_all", "key_cross_all")


class Replay:
    """A function without arguments over tensors of fixed address; on a GPU captured at its second call.

    Attributes:
        captured: how many graphs were captured: it stays at one.
    """

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        self.function = function
        self.device = device
        self.captured = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = False

    def __call__(self) -> None:
        """Run it. The first call is a plain one, which sets up libraries; a capture itself computes nothing."""
        if self.device.type != "cuda" or not self._warm:
            self.function()
            self._warm = True
            return
        if self._graph is None:
            torch.cuda.synchronize(self.device)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self.function()
            self.captured += 1
        self._graph.replay()


class DeviceNetwork(nn.Module):
    """The network's parts on a device; with fp16 the convolutions run in half precision, everything else in fp32."""

    def __init__(self, net: JointNet, capacity: int, precision: Literal["fp32", "fp16"]) -> None:
        super().__init__()
        self.config = net.config
        self.dtype = torch.float16 if precision == "fp16" else torch.float32
        plain = copy.deepcopy(net).eval()
        convolutions = copy.deepcopy(plain).to(self.dtype)
        for parameter in convolutions.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.convolutions = convolutions
        self.norm = copy.deepcopy(plain.adjust_ind[1])
        self.labels = LabelEncoderGraph(convolutions)
        self.decoder = DecoderGraph(convolutions).to(self.dtype)
        over_memory = (ShiftedQueryGraph, MemoryUpdateGraph, MemoryReadAllGraph, FixedResidualGraph, FixedStepGraph)
        self.graphs = nn.ModuleDict({kind.name: kind(plain, capacity) for kind in over_memory})

    def graph(self, name: str) -> Graph:
        """One of the memory's graphs."""
        graph = self.graphs[name]
        assert isinstance(graph, Graph)
        return graph

    def features(self, crops: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Crops (B, 3, H, W) -> layers, and x_tra, x_ind as fp32 tokens; the norm's squares would overflow fp16."""
        net = self.convolutions
        layers = net.backbone(crops.to(self.dtype).contiguous(memory_format=torch.channels_last))
        x_tra = net.adjust_tra(layers[2]).float()
        x_ind = self.norm(net.adjust_ind[0](layers[2]).float())
        return layers, *(x.flatten(2).transpose(1, 2).contiguous() for x in (x_tra, x_ind))

    def encode_masks(self, masks: Tensor) -> tuple[Tensor, ...]:
        """Mask crops (B, 1, H, W) -> E_ind, W, E_tra as fp32 tokens."""
        return tuple(encoding.float() for encoding in self.labels(masks.to(self.dtype)))

    def decode(self, E_tra_star: Tensor, x_ind: Tensor, omega: Tensor, layers: list[Tensor]) -> Tensor:
        """Eq. 7: logits (B, 1, H, W), fp32."""
        logits: Tensor = self.decoder(*(t.to(self.dtype) for t in (E_tra_star, x_ind, omega)), *layers)
        return logits.float()


class _FirstCrop:
    """Takes the crops that the orchestrator cuts of an object's first frame."""

    def extract(self, crop: NDArray[np.float32]) -> None:
        """(H, W, 3)."""
        self.crop = crop

    def start(self, mask: NDArray[np.float32]) -> None:
        """(H, W)."""
        self.mask = mask


class ObjectGroup:
    """The objects that appeared in one frame: their places, memories and filters."""

    def __init__(
        self, network: DeviceNetwork, settings: Settings, frame: NDArray[np.uint8], masks: list[NDArray[np.bool_]]
    ) -> None:
        self.network, self.settings = network, settings
        self.image_size = (frame.shape[0], frame.shape[1])
        self.device = next(network.parameters()).device
        self.frame_count = 1
        B, N, geometry = len(masks), settings.memory, geometry_of(network.config)
        self.geometry = geometry
        crops, labels, states = [], [], []
        for mask in masks:
            taken = _FirstCrop()
            tracker = ObjectTracker(taken, geometry, settings, StageClock())  # type: ignore[arg-type]
            tracker.start(frame, mask)
            crops.append(taken.crop.transpose(2, 0, 1))
            labels.append(taken.mask[None])
            states.append(tracker.state)

        def move(values: list[NDArray[np.float32]]) -> Tensor:
            return torch.from_numpy(np.stack(values)).to(self.device)

        self.pos = move([s.pos for s in states])
        self.scale = move([np.atleast_1d(s.target_scale) for s in states])
        self.base_size = move([s.base_target_size for s in states])
        self.window = DeviceWindow(*(self.pos.new_zeros(B, n, dtype=torch.long) for n in (2, 2, 1, 2)))
        self.weights = self.pos.new_zeros(B, N)
        self.weights[:, 0] = 1
        self.stored = torch.ones(B, 1, dtype=torch.long, device=self.device)
        self.previous = torch.full((B, 1), -1, device=self.device)
        update = network.graph("memory_update")
        shapes = {p.name: p.shape[1:] for g in network.graphs.values() for p in g.inputs()}  # type: ignore[operator]
        self.bank = {
            name: self.pos.new_zeros(B, *shapes[name])
            for name in (*BANKS, "E_tra_all", "valid", "z_ind", "E_ind_all", "W_all", "omega")
        }
        self.update_graph = update
        layers, self.x_tra, self.x_ind = network.features(move(crops))
        del layers
        one_hot = self.weights.clone()
        self._store(move(labels), one_hot, INITIAL_STEPS)
        self.remember = Replay(self._remember, self.device)

    def _store(self, labels: Tensor, slot: Tensor, steps: int) -> None:
        """The extracted features and their mask crops into a slot of each memory; omega learned."""
        bank, graph = self.bank, self.network.graph
        E_ind, W, E_tra = self.network.encode_masks(labels)
        chosen = slot[:, :, None, None] > 0.5
        for name, new in (("z_ind", self.x_ind), ("E_ind_all", E_ind), ("W_all", W), ("E_tra_all", E_tra)):
            bank[name].copy_(torch.where(chosen, new[:, None], bank[name]))
        omega = bank["omega"]
        samples = (bank["z_ind"], bank["E_ind_all"], bank["W_all"], self.weights, omega)
        weights, residual = graph("few_shot_residual")(*samples)
        for _ in range(steps):
            omega, residual = graph("few_shot_step")(bank["z_ind"], weights, omega, residual)
        bank["omega"].copy_(omega)
        _, key, C, D = graph("transformer_query")(self.x_tra)
        held = [bank[name] for name in BANKS[:4]]
        renewed = graph("memory_update")(*held, bank["valid"], slot, self.x_tra, key, C, D)
        for name, values in zip(BANKS, renewed, strict=True):
            bank[name].copy_(values)
        bank["valid"].copy_(bank["valid"].maximum(slot))

    def _remember(self) -> None:
        labels = cut_masks(self.probability, self.window, self.geometry.crop_size)
        weights, stored, slot, one_hot = insert_sample(
            self.weights, self.stored, self.previous, LEARNING_RATE, INITIAL_SHARE
        )
        for state, new in ((self.weights, weights), (self.stored, stored), (self.previous, slot)):
            state.copy_(new)
        self._store(labels, one_hot, UPDATE_STEPS)

    def bind(self, probability: Tensor) -> None:
        """Where the merged probabilities (B, H, W) of the objects lie from now on."""
        self.probability = probability
        self.remember = Replay(self._remember, self.device)

    def due(self) -> bool:
        """Whether this frame begins with a memory update; counted on the host, as it depends on no pixel."""
        self.frame_count += 1
        n = self.frame_count
        return n > 2 and n % self.settings.interval == 0 and self.settings.memory > 1

    def track(self, frame: Tensor) -> Tensor:
        """Frame (H, W, 3) uint8 on the device -> scores (B, H, W)."""
        network, geometry, bank = self.network, self.geometry, self.bank
        pos, scale = update_state(self.probability, self.pos, self.scale, self.base_size)
        self.pos.copy_(pos)
        self.scale.copy_(scale)
        window = search_windows(
            self.pos, self.scale, self.image_size, geometry.crop_size, geometry.stride, geometry.filter_size
        )
        for kept, new in zip(self.window, window, strict=True):
            kept.copy_(new)
        layers, x_tra, x_ind = network.features(cut_images(frame, window, geometry.crop_size))
        self.x_tra.copy_(x_tra)
        self.x_ind.copy_(x_ind)
        query, *_ = network.graph("transformer_query")(x_tra)
        read = (query, bank["key_cross_all"], bank["E_tra_all"], bank["valid"])
        logits = network.decode(network.graph("memory_read")(*read), x_ind, bank["omega"], layers)
        return paste_logits(logits, window, self.image_size)


class TorchSegmenter:
    """Follows objects through one video on a device; `step` as of `runtime.segmenter.Segmenter`.

    Args:
        net: the network.
        settings: memory, interval; both branches, the given score scale.
        device: "cuda" or "cpu".
        precision: "fp16" runs convolutions in half precision.

    Raises:
        DeviceError: there is no usable GPU.
        SettingsError: a branch is switched off, or `score_resize` is "ratio".
    """

    def __init__(
        self, net: JointNet, settings: Settings, device: str = "cuda", precision: Literal["fp32", "fp16"] = "fp16"
    ) -> None:
        if settings.branches != "both" or settings.score_resize != "given":
            raise SettingsError("on a device both branches run and score_resize is 'given': leave them as they are")
        if device.startswith("cuda"):
            problem = query_cuda_driver().problem
            if problem is None and not torch.cuda.is_available():
                problem = "this build of torch has no CUDA"
            if problem is not None:
                raise DeviceError(f"device {device!r} cannot be used: {problem}; use 'cpu'")
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self.device = torch.device(device)
        self.settings = settings
        self.network = DeviceNetwork(net, settings.memory, precision).to(self.device).requires_grad_(False)
        self.scores: Tensor
        self.frame_replay: Replay
        self.groups: list[ObjectGroup] = []
        self.ids: list[int] = []

    @property
    def captured_graphs(self) -> int:
        """CUDA graphs captured so far; constant in the steady state."""
        return sum(g.remember.captured for g in self.groups) + (self.frame_replay.captured if self.groups else 0)

    @torch.no_grad()
    def step(self, frame: NDArray[np.uint8], mask: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Segment the next frame: (H, W, 3) uint8 RGB, a label map (H, W) where objects appear -> labels (H, W).

        Raises:
            MaskError: no object is known yet.
        """
        new = [] if mask is None else [int(i) for i in np.unique(mask) if i and int(i) not in self.ids]
        if not self.groups and not new:
            raise MaskError("no object to follow: expected a mask with at least one id above 0 with the first frame")
        if self.groups:
            self.frame.copy_(torch.from_numpy(frame))
            self.advance()
        if new:
            assert mask is not None
            self._add(frame, mask, new)
        labels: NDArray[np.uint8] = self.labels.cpu().numpy()
        return labels

    @torch.no_grad()
    def advance(self) -> None:
        """The frame that lies in `frame`: its labels come to lie in `labels`. Never waits for the device."""
        for group in self.groups:
            if group.due():
                group.remember()
        self.frame_replay()

    def _add(self, frame: NDArray[np.uint8], mask: NDArray[np.uint8], new: list[int]) -> None:
        size = (frame.shape[0], frame.shape[1])
        masks = [mask == i for i in new]
        given = torch.from_numpy(np.where(np.stack(masks), np.float32(GIVEN), np.float32(-GIVEN))).to(self.device)
        scores = torch.cat((self.scores, given)) if self.groups else given
        self.groups.append(ObjectGroup(self.network, self.settings, frame, masks))
        self.ids += new
        self.frame = torch.zeros(*size, 3, dtype=torch.uint8, device=self.device)
        self.scores = scores
        self.probabilities = torch.zeros(len(self.ids), *size, device=self.device)
        self.labels = torch.zeros(size, dtype=torch.uint8, device=self.device)
        self.id_table = torch.tensor([0, *self.ids], dtype=torch.uint8, device=self.device)
        first = 0
        for group in self.groups:
            group.bind(self.probabilities[first : first + len(group.pos)])
            first += len(group.pos)
        self._merge()
        self.frame_replay = Replay(self._frame, self.device)

    def _frame(self) -> None:
        self.scores.copy_(torch.cat([group.track(self.frame) for group in self.groups]))
        self._merge()

    def _merge(self) -> None:
        merged = soft_aggregation(self.scores)
        self.probabilities.copy_(merged[1:])
        self.labels.copy_(self.id_table[merged.argmax(0)])
