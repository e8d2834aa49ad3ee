"""jointrt: JOINT video object segmentation (Mao et al., ICCV 2021) as engines, with the released code's masks."""

import os
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
)

# ONNX Runtime reports its use to Microsoft from its import on, unless told otherwise before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from .runtime.segmenter import Segmenter

__version__ = "0.1.0"

__all__ = [
    "BundleError",
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


def __getattr__(name: str) -> Any:
    """`Segmenter`, imported when it is asked for: the command line's help needs none of its libraries."""
    if name == "Segmenter":
        from .runtime.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
