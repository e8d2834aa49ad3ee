"""A GPU's memory and stream through torch, for the gate after a build."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.device.engines.protocol import DeviceArray, DType
from ...runtime.device.replay import TORCH_TYPES, Lane


class TorchDevice:
    """See `runtime.engine_network.Device`; all arrays come from `zeros` or are parts of such."""

    def __init__(self, device: torch.device) -> None:
        self.lane = Lane(device)
        self.stream = self.lane.handle

    def current(self) -> AbstractContextManager[None]:
        """The device and the stream, for what torch is asked."""
        return self.lane.work()

    def zeros(self, shape: tuple[int, ...], dtype: DType) -> DeviceArray:
        """A tensor of zeros."""
        tensor = torch.zeros(shape, dtype=TORCH_TYPES[dtype], device=self.lane.device)
        return DeviceArray(tensor.data_ptr(), shape, dtype, tensor)

    def pinned(self, shape: tuple[int, ...], dtype: DType) -> NDArray[Any]:
        """A page-locked tensor, as an array; on the CPU an ordinary one."""
        pinned = self.lane.device.type == "cuda"
        array: NDArray[Any] = torch.zeros(shape, dtype=TORCH_TYPES[dtype], pin_memory=pinned).numpy()
        return array

    def upload(self, destination: DeviceArray, source: NDArray[Any]) -> None:
        """Enqueue a copy to the device."""
        _tensor(destination).copy_(torch.from_numpy(source), non_blocking=True)

    def download(self, destination: NDArray[Any], source: DeviceArray) -> None:
        """Enqueue a copy from the device."""
        torch.from_numpy(destination).copy_(_tensor(source), non_blocking=True)

    def copy(self, destination: DeviceArray, source: DeviceArray) -> None:
        """Enqueue a copy on the device."""
        _tensor(destination).flatten().copy_(_tensor(source).flatten())

    def wait(self) -> None:
        """Until the stream is idle."""
        self.lane.wait()


def _tensor(array: DeviceArray) -> Tensor:
    """The part of the owner that an array covers."""
    assert isinstance(array.owner, Tensor)
    whole = array.owner.view(-1)
    first = (array.address - whole.data_ptr()) // whole.element_size()
    return whole[first : first + int(np.prod(array.shape))].view(array.shape)
