"""Objects whose memories are updated together, on a device: their memories, filters and sample weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..settings import INITIAL_STEPS, UPDATE_STEPS
from ..tracking.sample_weights import INITIAL_SHARE, KEPT_SHARE, LEARNING_RATE
from .geometry import DeviceWindow, cut_masks, insert_sample
from .network import DeviceNetwork, FewShotLearner, FewShotLoop
from .replay import Replay

_STORED = (("z_ind", "x_ind"), ("E_ind_all", "E_ind"), ("W_all", "W"), ("E_tra_all", "E_tra"))
"""Banks that only keep what a frame brings, and the ports that bring it."""
WINDOW = ("start", "stop", "stride", "offset")
"""State tensors that make up a `DeviceWindow`."""
_RENEWED = ("z_all", "key_all", "C_all", "D_all", "key_cross_all")
"""Banks that a frame's entry changes as a whole."""


def put(bank: Tensor, slot: Tensor, value: Tensor) -> None:
    """Write values (B, ...) into slots (B,) of a bank (B, N, ...), in place, without a word to the host."""
    rows = torch.arange(bank.shape[0], device=bank.device)
    bank.index_put_((rows, slot), value.to(bank.dtype))


class ObjectGroup:
    """Objects as a range of the arrays of all objects.

    Args:
        network: the engines.
        tensors: this group's part of every array.
        spare: room for what `memory_update` gives, at least as many objects; unused where it works in place.
        scratch: see `Lane.scratch`.
    """

    def __init__(
        self, network: DeviceNetwork, tensors: Mapping[str, Tensor], spare: Mapping[str, Tensor], scratch: Any
    ) -> None:
        self.network = network
        self.tensors = tensors
        batch = tensors["pos"].shape[0]
        self._encode_label = network.bind("label_encoder", tensors)
        self._learn = FewShotLoop(network, tensors, UPDATE_STEPS) if "z_ind" in network.ports else None
        self._renewed = {name: spare[name][:batch] for name in spare}
        self._remember = None
        if "z_all" in network.ports:
            self._remember = network.bind("memory_update", {**tensors, **self.outputs()})
        self._replay = Replay(network.lane, scratch, capturable=network.capturable)

    @staticmethod
    def spare(network: DeviceNetwork, batch: int) -> dict[str, Tensor]:
        """Room that groups of up to so many objects may share; none where memories are renewed in place."""
        if "memory_update" not in network.engines or network.engines["memory_update"].in_place:
            return {}
        return {name: network.tensor(name, batch) for name in _RENEWED}

    def outputs(self) -> dict[str, Tensor]:
        """Where `memory_update` writes, by port."""
        renewed = self._renewed or {name: self.tensors[name] for name in _RENEWED}
        return {name if name == "key_cross_all" else f"{name}_next": tensor for name, tensor in renewed.items()}

    def start(self, learner: FewShotLearner | None) -> None:
        """The first memory entry, from the last features and the mask crops in `mask`; omega learned."""
        tensors = self.tensors
        slot = torch.zeros_like(tensors["sample_weights"])
        slot[:, 0].fill_(1)
        tensors["sample_weights"].copy_(slot)
        tensors["kept"].copy_(slot)
        tensors["stored"].fill_(1)
        tensors["previous"].fill_(-1)
        self._encode_label()
        self._store(slot)
        self.remember(slot)
        if learner is not None:
            tensors["omega"].copy_(learner.learn(*(tensors[name] for name in ("x_ind", "E_ind", "W"))))

    def take_given(self, slot: Tensor) -> None:
        """A given mask's entry into a slot (B, N), one-hot, whose weights are set; omega learned as at first."""
        self._encode_label()
        self._store(slot)
        self.remember(slot)
        if self._learn is not None:
            FewShotLoop(self.network, self.tensors, INITIAL_STEPS)()

    def update(self) -> None:
        """Enqueue a memory update with what the last frame left: a CUDA graph from the second call on."""
        self._replay(self.compute)

    def compute(self) -> None:
        """A memory update: a function of the tensors alone."""
        tensors, memory = self.tensors, self.network.settings.memory
        windows = DeviceWindow(*(tensors[name] for name in WINDOW))
        tensors["mask"].copy_(cut_masks(tensors["probability"], windows, self.network.geometry.crop_size))
        # The engines may have more slots than are used.
        used, kept = (tensors[name][:, :memory] for name in ("sample_weights", "kept"))
        weights, stored, previous, one_hot = insert_sample(
            used, tensors["stored"], tensors["previous"], kept, LEARNING_RATE, INITIAL_SHARE, KEPT_SHARE
        )
        used.copy_(weights)
        tensors["stored"].copy_(stored)
        tensors["previous"].copy_(previous)
        self._encode_label()
        slot = F.pad(one_hot, (0, self.network.capacity - memory))
        self._store(slot)
        if self.network.overlapped:
            with self.network.lane.beside(self.learn):
                self.remember(slot)
        else:
            self.remember(slot)
            self.learn()

    def learn(self) -> None:
        """The few-shot steps of an update alone."""
        if self._learn is not None:
            self._learn()

    def _store(self, slot: Tensor) -> None:
        """The last features and encodings into a slot (B, N), one-hot, of the banks that only keep them."""
        tensors, index = self.tensors, slot.argmax(1)
        for bank, source in _STORED:
            if bank in tensors:
                put(tensors[bank], index, tensors[source])

    def remember(self, slot: Tensor) -> None:
        """The last features into a slot (B, N), one-hot, of the transformer's memory, all of which they change."""
        if self._remember is None:
            return
        tensors = self.tensors
        tensors["slot"].copy_(slot)
        self._remember()
        for name, renewed in self._renewed.items():
            tensors[name].copy_(renewed)
        tensors["valid"].copy_(tensors["valid"].maximum(slot))
