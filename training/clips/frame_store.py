"""Images and label maps read from disk once, and kept on the device as long as there is room."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ...errors import DatasetError


class FrameStore:
    """Decoded files on a device.

    Attributes:
        device: where the tensors lie.
        room: bytes that may be kept; what does not fit is read again each time.
    """

    def __init__(self, device: torch.device, room: int) -> None:
        self.device = device
        self.room = room
        self._kept: dict[Path, Tensor] = {}
        self._used = 0
        self._lock = threading.Lock()

    def image(self, path: Path) -> Tensor:
        """(3, H, W) uint8, RGB.

        Raises:
            DatasetError: the file cannot be read.
        """
        return self._get(path, "RGB")

    def labels(self, path: Path) -> Tensor:
        """(H, W) uint8: palette or grey values.

        Raises:
            DatasetError: the file cannot be read.
        """
        return self._get(path, None)

    def _get(self, path: Path, mode: str | None) -> Tensor:
        kept = self._kept.get(path)
        if kept is not None:
            return kept
        try:
            with Image.open(path) as file:
                # A palette PNG's values are its indices; colours are of no interest.
                converted = file.convert(mode) if mode else file if file.mode in ("P", "L") else file.convert("L")
                array = np.array(converted, dtype=np.uint8)
        except (OSError, UnidentifiedImageError, ValueError) as error:
            raise DatasetError(f"{path} cannot be read ({error}): expected an image; remove or replace it") from None
        tensor = torch.from_numpy(array)
        tensor = (tensor.permute(2, 0, 1).contiguous() if array.ndim == 3 else tensor).to(self.device)
        with self._lock:
            if path not in self._kept and self._used + tensor.nbytes <= self.room:
                self._kept[path] = tensor
                self._used += tensor.nbytes
        return tensor
