"""The objects that appeared in one frame, on a device: their memories, filters and sample weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..settings import UPDATE_STEPS, Settings
from ..tracking.sample_weights import INITIAL_SHARE, LEARNING_RATE
from ..tracking.tracker import update_due
from .geometry import DeviceWindow, cut_masks, insert_sample
from .network import DeviceNetwork, FewShotLearner, FewShotLoop
from .replay import Replay

_STORED = (("z_ind", "x_ind"), ("E_ind_all", "E_ind"), ("W_all", "W"), ("E_tra_all", "E_tra"))
"""Banks that only keep what a frame brings, and the ports that bring it."""
WINDOW = ("start", "stop", "stride", "offset")
"""State tensors that make up a `DeviceWindow`."""
_RENEWED = ("z_all", "key_all", "C_all", "D_all", "key_cross_all")
"""Banks that a frame's entry changes as a whole."""


class ObjectGroup:
    """Objects of one pace, as a range of the arrays of all objects.

    Args:
        network: the engines.
        tensors: this group's part of every array.
        spare: room for what `memory_update` gives, at least as many objects.
        frame_count: n, frames seen; the first one included.
        scratch: see `Lane.scratch`.
    """

    def __init__(
        self,
        network: DeviceNetwork,
        tensors: Mapping[str, Tensor],
        spare: Mapping[str, Tensor],
        frame_count: int,
        scratch: Any,
    ) -> None:
        self.network = network
        self.tensors = tensors
        self.frame_count = frame_count
        batch = tensors["pos"].shape[0]
        self._encode_label = network.bind("label_encoder", tensors)
        self._learn = FewShotLoop(network, tensors, UPDATE_STEPS) if "z_ind" in network.ports else None
        self._renewed = {name: spare[name][:batch] for name in spare}
        self._remember = None
        if "z_all" in network.ports:
            outputs = {"key_cross_all": self._renewed["key_cross_all"]}
            outputs |= {f"{name}_next": self._renewed[name] for name in _RENEWED if name != "key_cross_all"}
            self._remember = network.bind("memory_update", {**tensors, **outputs})
        self._replay = Replay(network.lane, scratch, capturable=network.capturable)

    @staticmethod
    def spare(network: DeviceNetwork, batch: int) -> dict[str, Tensor]:
        """Room that groups of up to so many objects may share."""
        return {name: network.tensor(name, batch) for name in _RENEWED if name in network.ports}

    def due(self, settings: Settings) -> bool:
        """Count a frame; whether it begins with a memory update, which depends on no pixel."""
        self.frame_count += 1
        return update_due(self.frame_count, 1, settings)

    def start(self, learner: FewShotLearner | None) -> None:
        """The first memory entry, from the last features and the mask crops in `mask`; omega learned."""
        tensors = self.tensors
        slot = torch.zeros_like(tensors["sample_weights"])
        slot[:, 0].fill_(1)
        tensors["sample_weights"].copy_(slot)
        tensors["stored"].fill_(1)
        tensors["previous"].fill_(-1)
        self._encode_label()
        self._store(slot)
        if learner is not None:
            tensors["omega"].copy_(learner.learn(*(tensors[name] for name in ("x_ind", "E_ind", "W"))))

    def update(self) -> None:
        """Enqueue a memory update with what the last frame left: a CUDA graph from the second call on."""
        self._replay(self._update)

    def _update(self) -> None:
        tensors, memory = self.tensors, self.network.settings.memory
        windows = DeviceWindow(*(tensors[name] for name in WINDOW))
        tensors["mask"].copy_(cut_masks(tensors["probability"], windows, self.network.geometry.crop_size))
        # The engines may have more slots than are used.
        used = tensors["sample_weights"][:, :memory]
        weights, stored, previous, one_hot = insert_sample(
            used, tensors["stored"], tensors["previous"], LEARNING_RATE, INITIAL_SHARE
        )
        used.copy_(weights)
        tensors["stored"].copy_(stored)
        tensors["previous"].copy_(previous)
        self._encode_label()
        self._store(F.pad(one_hot, (0, self.network.capacity - memory)))
        if self._learn is not None:
            self._learn()

    def _store(self, slot: Tensor) -> None:
        """The last features and encodings into a slot (B, N), one-hot, of each memory."""
        tensors = self.tensors
        chosen = slot[:, :, None, None] > 0.5
        for bank, source in _STORED:
            if bank in tensors:
                tensors[bank].copy_(torch.where(chosen, tensors[source][:, None], tensors[bank]))
        if self._remember is not None:
            tensors["slot"].copy_(slot)
            self._remember()
            for name, renewed in self._renewed.items():
                tensors[name].copy_(renewed)
            tensors["valid"].copy_(tensors["valid"].maximum(slot))
