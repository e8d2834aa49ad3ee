"""The PyTorch network behind the orchestrator's interface, with the released algorithm: the reference of every gate.

Nothing is cached between frames: at each frame the whole memory is encoded anew (eq. 2 and 3 over all N frames).
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...model.config import ModelConfig
from ...model.network import Features, JointNet
from ...model.target_model import to_filter
from ...runtime.clock import StageClock
from ...runtime.manifest import Defaults, Geometry
from ...runtime.segmenter import Segmenter
from ...runtime.settings import Settings
from ...runtime.tracking.follower import HostFollower
from ...runtime.tracking.network import EachAlone, Sample


def geometry_of(config: ModelConfig) -> Geometry:
    """What the orchestrator must know of a model."""
    return Geometry(
        crop_size=config.crop_size,
        stride=config.STRIDE,
        filter_size=config.filter_size,
        search_factor=config.search_factor,
    )


class ReferenceNetwork(EachAlone):
    """`network.Network` over a `JointNet` in eval mode."""

    def __init__(self, net: JointNet, settings: Settings, clock: StageClock) -> None:
        self.net = net.eval()
        self.settings = settings
        self.clock = clock

    def new_target(self) -> ReferenceTarget:
        """Room for one more object."""
        return ReferenceTarget(self)

    @torch.inference_mode()
    def extract(self, targets: Sequence[ReferenceTarget], crop: NDArray[np.float32]) -> None:
        """Features of a crop (H, W, 3)."""
        with self.clock.stage("backbone"):
            image = torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))[None]
            features = self.net.extract(image)
        for target in targets:
            target.features = features

    def state_dicts(self, targets: Sequence[ReferenceTarget]) -> list[dict[str, NDArray[Any]]]:
        """Not offered: the reference keeps no state across runs."""
        raise NotImplementedError("the reference keeps no state across runs")

    def restore(self, states: Sequence[Mapping[str, NDArray[Any]]]) -> list[ReferenceTarget]:
        """Go on from the memories, filters and last features of a bundle's targets (`runtime.cpu.state`)."""
        everything = ChainMap(*(dict(state) for state in states))
        targets = [self.new_target() for _ in states]
        for target, state in zip(targets, states, strict=True):
            target.take_over(state, everything)
        return targets


class ReferenceTarget:
    """One object with the network's own forward passes."""

    def __init__(self, network: ReferenceNetwork) -> None:
        self.network = network
        self.features: Features
        self.memory: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
        self.omega: Tensor | None = None

    @torch.inference_mode()
    def store(self, sample: Sample[ReferenceTarget]) -> None:
        """The extracted features into a slot, and omega learned."""
        net = self.network.net
        with self.network.clock.stage("label_encoder"):
            E_ind, W, E_tra = net.label_encoder(torch.from_numpy(np.ascontiguousarray(sample.mask))[None, None])
        entry = (self.features.x_ind, E_ind, W, self.features.x_tra, E_tra)
        self.memory[sample.slot : sample.slot + 1] = [entry]
        if self.network.settings.branches == "transduction":
            return
        with self.network.clock.stage("few_shot"):
            z_ind, E_ind, W = (torch.cat([m[i] for m in self.memory])[None] for i in range(3))
            weights = torch.from_numpy(sample.weights.copy())[None]
            self.omega = net.target_model.fit(z_ind, E_ind, W, weights, self.omega, sample.steps)

    @torch.inference_mode()
    def segment(self) -> NDArray[np.float32]:
        """Logits (H, W)."""
        net, branches = self.network.net, self.network.settings.branches
        encodings = torch.zeros(1, net.config.encoding_channels, *net.config.feature_size)
        if branches != "induction":
            z_tra, E_tra = (torch.cat([m[i] for m in self.memory])[None] for i in (3, 4))
            with self.network.clock.stage("memory_encoding"):
                encoded = net.transformer.encode(z_tra)
            with self.network.clock.stage("query"):
                encodings = encodings + net.transformer.decode(self.features.x_tra, encoded, E_tra)
        if self.omega is not None:
            encodings = encodings + net.target_model(self.features.x_ind, self.omega)
        with self.network.clock.stage("decoder"):
            logits: NDArray[np.float32] = net.decoder(encodings, self.features.layers)[0, 0].numpy()
        return logits

    def take_over(self, state: Mapping[str, NDArray[Any]], everything: Mapping[str, NDArray[Any]]) -> None:
        """Memory, filter and last features of one object, parts of which are in another's state."""
        config = self.network.net.config
        absent = np.zeros((1, config.feature_size[0] * config.feature_size[1], 0), np.float32)

        def maps(tokens: NDArray[Any]) -> Tensor:
            return torch.from_numpy(tokens.copy()).transpose(1, 2).unflatten(2, config.feature_size)

        memory, features = f"memory{state['memory']}", int(state["features"])
        z_ind, looks = everything[f"{memory}.z_ind"], everything[f"{memory}.looks"].tolist()
        for slot in range(z_ind.shape[1]):
            x_ind, E_ind, W = (maps(array[:, slot]) for array in (z_ind, state["E_ind_all"], state["W_all"]))
            x_tra = maps(everything[f"look{looks[slot]}.z"] if looks else absent)
            self.memory.append((x_ind, E_ind, W, x_tra, maps(state.get(f"E_tra{slot}", absent))))
        if self.network.settings.branches != "transduction":
            self.omega = to_filter(torch.from_numpy(state["omega"].copy()), config.filter_size)
        self.features = Features(
            [], maps(everything[f"look{features}.z"]), maps(everything[f"features{features}.x_ind"])
        )


def reference_segmenter(net: JointNet, settings: Settings) -> Segmenter:
    """A `Segmenter` that runs the PyTorch network."""
    clock = StageClock()
    return Segmenter(HostFollower(ReferenceNetwork(net, settings, clock), geometry_of(net.config), settings, clock))


def reference_defaults(memory: int = 20, interval: int = 5, max_objects: int = 8) -> Defaults:
    """The released tracker's settings (`joint_ytvos`)."""
    return Defaults(memory=memory, interval=interval, max_objects=max_objects)
