"""jointrt: JOINT video object segmentation (Mao et al., ICCV 2021) as engines, with the released code's masks."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    BundleError,
    DatasetError,
    DependencyError,
    DeviceError,
    JointError,
    MaskError,
    OutputError,
    SettingsError,
    VideoError,
    WeightsError,
    for_want_of_graphics,
)

# ONNX Runtime reports its use to Microsoft from its import on, unless told otherwise before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from .runtime.clicks import Click, ClickSegmenter
    from .runtime.device.follower import BatchSegmenter
    from .runtime.segmenter import Segmenter

__version__ = "0.1.0"

__all__ = [
    "BatchSegmenter",
    "BundleError",
    "Click",
    "ClickSegmenter",
    "DatasetError",
    "DependencyError",
    "DeviceError",
    "JointError",
    "MaskError",
    "OutputError",
    "Segmenter",
    "SettingsError",
    "VideoError",
    "WeightsError",
    "__version__",
]


_LAZY = {
    "BatchSegmenter": ".runtime.device.follower",
    "Click": ".runtime.clicks",
    "ClickSegmenter": ".runtime.clicks",
    "Segmenter": ".runtime.segmenter",
}
"""Imported when they are asked for: the command line's help needs none of their libraries."""


def __getattr__(name: str) -> Any:
    """The classes of `_LAZY`."""
    if name in _LAZY:
        try:
            return getattr(import_module(_LAZY[name], __name__), name)
        except ImportError as error:
            raise for_want_of_graphics(error) or error from None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
