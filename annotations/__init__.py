"""Label maps as other tools have them, and back: run lengths (COCO), detections (supervision), data sets of files."""

from .detections import from_detections, to_detections
from .run_lengths import from_rle, to_rle

__all__ = ["from_detections", "from_rle", "to_detections", "to_rle"]
