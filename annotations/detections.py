"""Label maps as `supervision.Detections`, which its tools draw, count and write to files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DependencyError, MaskError

if TYPE_CHECKING:
    from supervision import Detections


def import_supervision() -> Any:
    """The module `supervision`.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        import supervision
    except ImportError:
        raise DependencyError("supervision is not installed: run `pip install 'jointrt[annotations]'`") from None
    return supervision


def to_detections(labels: NDArray[np.uint8]) -> Detections:
    """One detection per object of a label map (H, W).

    `tracker_id` and `class_id` are the object's id, `xyxy` its box with the far edges outside, `mask` (n, H, W).
    `data` says that none is a crowd: left to itself, supervision writes masks of several parts to COCO as crowds, which
    evaluations pass over.

    Raises:
        DependencyError: supervision is not installed.
    """
    supervision = import_supervision()
    ids = np.unique(labels)
    ids = ids[ids > 0].astype(int)
    masks = labels[None] == ids[:, None, None].astype(labels.dtype)
    boxes = supervision.mask_to_xyxy(masks) if len(ids) else np.zeros((0, 4))
    found: Detections = supervision.Detections(
        # Its own boxes end with the last pixel.
        xyxy=(boxes + np.array((0, 0, 1, 1))).astype(np.float32),
        mask=masks,
        class_id=ids,
        tracker_id=ids,
        data={"iscrowd": np.zeros(len(ids), int), "area": masks.sum((1, 2)).astype(float)},
    )
    return found


def from_detections(detections: Detections, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """The label map (H, W) of detections with masks; where they overlap, the last one's.

    The ids are the tracker's, or the classes' plus one where there is no tracker; detections of one id are its parts.

    Args:
        detections: of one frame.
        size: (H, W), for a frame without detections.

    Raises:
        MaskError: masks or ids are missing, or an id is none of 1 to 255.
    """
    if not len(detections):
        if size is None:
            raise MaskError("a frame without detections has no size: give it as (H, W)")
        return np.zeros(size, np.uint8)
    if detections.mask is None:
        raise MaskError("detections have boxes but no masks: expected `mask` (n, H, W)")
    if detections.tracker_id is not None:
        ids = detections.tracker_id
    elif detections.class_id is not None:
        ids = detections.class_id + 1
    else:
        raise MaskError("detections have neither `tracker_id` nor `class_id`: expected one, for the objects' ids")
    if ids.min() < 1 or ids.max() > 255:
        raise MaskError(f"detections have ids from {ids.min()} to {ids.max()}: expected 1 to 255")
    labels = np.zeros(detections.mask.shape[1:], np.uint8)
    for mask, object_id in zip(detections.mask, ids, strict=True):
        labels[np.asarray(mask, bool)] = object_id
    return labels
