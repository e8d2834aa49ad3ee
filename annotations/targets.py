"""What a film's label maps are written as."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..files import replace_file
from ..runtime.video.masks import write_label_map
from ..runtime.video.sources import FOLDER_RATE
from .detections import import_supervision, to_detections
from .run_lengths import import_rle, to_rle

Frames = Iterable[tuple[str, NDArray[np.uint8]]]
"""Names and label maps (H, W) of the frames, in order."""


class Target(StrEnum):
    """The forms, and what `OUT` is in each."""

    PNG = "png"
    FFV1 = "ffv1"
    RLE = "rle"
    COCO = "coco"
    YOLO = "yolo"
    LABELME = "labelme"
    VOC = "voc"


FOLDERS = {Target.PNG, Target.YOLO, Target.LABELME, Target.VOC}
"""Where `OUT` is a folder; the others are one file."""


def write_png(folder: Path, frames: Frames, objects: Mapping[int, str]) -> None:
    """Palette PNGs."""
    for name, labels in frames:
        write_label_map(folder / f"{name}.png", labels)


def write_ffv1(path: Path, frames: Frames, objects: Mapping[int, str]) -> None:
    """One lossless video (FFV1 in Matroska) whose grey values are the ids."""
    import av

    # Without the flag the muxer writes a random id and its version.
    with av.open(str(path), "w", format="matroska", options={"fflags": "+bitexact"}) as container:
        stream: Any = None
        for _, labels in frames:
            if stream is None:
                stream = container.add_stream("ffv1", rate=Fraction(FOLDER_RATE))
                stream.height, stream.width = labels.shape
                stream.pix_fmt = "gray"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(labels, format="gray")))
        container.mux(stream.encode())


def write_rle(path: Path, frames: Frames, objects: Mapping[int, str]) -> None:
    """Run lengths: `{"size": [H, W], "frames": {NAME: {ID: COUNTS}}}`, with `objects` where names are told."""
    content: dict[str, Any] = {"size": [], "frames": {}}
    for name, labels in frames:
        content["size"] = list(labels.shape)
        content["frames"][name] = {str(i): counts for i, counts in to_rle(labels).items()}
    if objects:
        content["objects"] = {str(i): name for i, name in objects.items()}
    replace_file(path, (json.dumps(content) + "\n").encode())


def write_coco(path: Path, frames: Frames, objects: Mapping[int, str]) -> None:
    """COCO's instance annotations with run lengths, which keep masks of several parts and with holes exactly.

    An object is a category, and its id the `track_id` besides; none is a crowd.
    """
    rle = import_rle()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, labels) in enumerate(frames, 1):
        height, width = labels.shape
        images.append({"id": image_id, "file_name": f"{name}.png", "width": width, "height": height})
        for object_id, counts in to_rle(labels).items():
            code = {"size": [height, width], "counts": counts.encode()}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": object_id,
                    "track_id": object_id,
                    "segmentation": {"size": [height, width], "counts": counts},
                    "area": float(rle.area(code)),
                    "bbox": [float(v) for v in rle.toBbox(code)],
                    "iscrowd": 0,
                }
            )
    seen = sorted({part["category_id"] for part in annotations} | set(objects))
    categories = [{"id": i, "name": called(i, objects)} for i in seen]
    content = {"images": images, "annotations": annotations, "categories": categories}
    replace_file(path, json.dumps(content).encode())


def called(object_id: int, objects: Mapping[int, str]) -> str:
    """An object's name."""
    return objects.get(object_id, f"object {object_id}")


def _by_supervision(write: Callable[[Any, Path], None]) -> Callable[[Path, Frames, Mapping[int, str]], None]:
    """A writer of what supervision writes; an object is a class, in the order of the ids."""

    def write_all(folder: Path, frames: Frames, objects: Mapping[int, str]) -> None:
        supervision = import_supervision()
        found: dict[str, Any] = {}
        # It asks the pictures for their size.
        with TemporaryDirectory() as pictures:
            for name, labels in frames:
                file = Path(pictures) / f"{name}.png"
                Image.fromarray(np.zeros_like(labels)).save(file)
                found[str(file)] = to_detections(labels)
            ids = sorted({int(i) for detections in found.values() for i in detections.class_id} | set(objects))
            for detections in found.values():
                detections.class_id = np.searchsorted(ids, detections.class_id)
            classes = [called(i, objects) for i in ids]
            write(supervision.DetectionDataset(classes=classes, images=list(found), annotations=found), folder)

    return write_all


def _yolo(data: Any, folder: Path) -> None:
    data.as_yolo(annotations_directory_path=str(folder / "labels"), data_yaml_path=str(folder / "data.yaml"))


def _labelme(data: Any, folder: Path) -> None:
    data.as_labelme(annotations_directory_path=str(folder))


def _voc(data: Any, folder: Path) -> None:
    data.as_pascal_voc(annotations_directory_path=str(folder))


WRITERS: dict[Target, Callable[[Path, Frames, Mapping[int, str]], None]] = {
    Target.PNG: write_png,
    Target.FFV1: write_ffv1,
    Target.RLE: write_rle,
    Target.COCO: write_coco,
    Target.YOLO: _by_supervision(_yolo),
    Target.LABELME: _by_supervision(_labelme),
    Target.VOC: _by_supervision(_voc),
}
