"""Where a film's label maps are read from: PNGs, one lossless video, run lengths, COCO, other tools' data sets."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DatasetError, VideoError
from ..runtime.video.masks import read_label_map
from ..runtime.video.sources import ImageFolder, natural_key, open_source
from .detections import from_detections, import_supervision
from .run_lengths import covered_pixels, from_rle, import_rle

Labels = NDArray[np.uint8]


class MaskSource(ABC):
    """A film's label maps.

    Attributes:
        names: of the frames, in order.
        objects: names of objects by id, as far as they are told.
        notes: what the user should know of how it is read.
    """

    names: list[str]
    objects: dict[int, str]
    notes: tuple[str, ...] = ()

    @abstractmethod
    def frames(self) -> Iterator[tuple[str, Labels]]:
        """Names and label maps (H, W), in order.

        Raises:
            DatasetError: one cannot be read.
            MaskError: one is no label map.
        """


def open_masks(path: Path, frames: Path | None) -> MaskSource:
    """The label maps in a file or folder, whose form is told by what lies there.

    Args:
        path: a folder of PNGs, or one with `masks/` in it as `jointrt run` leaves it; `masks.mkv`; run lengths or COCO
            as JSON; a folder of YOLO's or labelme's files.
        frames: folder of the images, which YOLO's and labelme's files need.

    Raises:
        DatasetError: there is none of these.
        DependencyError: what reads it is not installed.
    """
    if path.is_dir():
        return _open_folder(path, frames)
    if not path.is_file():
        raise DatasetError(f"{path} does not exist: expected masks, as a file or a folder")
    if path.suffix.lower() == ".json":
        return _open_json(path)
    if path.suffix.lower() in (".mkv", ".avi", ".mov", ".nut"):
        return VideoMasks(path)
    raise DatasetError(f"{path} is no form of masks that is known: expected a folder, .json, or a lossless video .mkv")


def _open_folder(path: Path, frames: Path | None) -> MaskSource:
    for folder in (path, path / "masks"):
        if files := sorted(folder.glob("*.png"), key=lambda file: natural_key(file.name)):
            return PngMasks(files)
    for inner, kind in (("masks.mkv", VideoMasks), ("masks.json", _open_json)):
        if (path / inner).is_file():
            return kind(path / inner)
    yolo, labelme = (path / "data.yaml").is_file(), any(path.rglob("*.json"))
    if not yolo and not labelme:
        raise DatasetError(
            f"{path} holds no masks: expected PNGs, masks.mkv, masks.json, data.yaml, or labelme's files"
        )
    if frames is None:
        tool = "YOLO" if yolo else "labelme"
        raise DatasetError(f"{path} holds {tool}'s outlines, which are shares of the images' sides: give --frames")
    return OutlineMasks(path, frames, yolo=yolo)


def _open_json(path: Path) -> MaskSource:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as JSON: {error}") from None
    if isinstance(content, dict) and isinstance(content.get("frames"), dict):
        return RunLengthMasks(path, content)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        return CocoMasks(path, content)
    raise DatasetError(f"{path} holds neither COCO's `images` and `annotations` nor `size` and `frames` of run lengths")


class PngMasks(MaskSource):
    """PNGs as `jointrt run` takes and writes them."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.names = [file.stem for file in files]
        self.objects = {}

    def frames(self) -> Iterator[tuple[str, Labels]]:
        """See `MaskSource`."""
        for name, file in zip(self.names, self.files, strict=True):
            yield name, read_label_map(file)


class VideoMasks(MaskSource):
    """A lossless video whose grey values are the ids."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source = open_source(path)
        self.objects = {}
        self.names = [f"{index:05d}" for index in range(self.source.count or 0)]

    def frames(self) -> Iterator[tuple[str, Labels]]:
        """See `MaskSource`."""
        for frame in self.source.frames():
            red, green, blue = np.moveaxis(frame.image, -1, 0)
            if not (np.array_equal(red, green) and np.array_equal(red, blue)):
                raise DatasetError(f"{self.path} has colours: expected a grey video whose values are the objects' ids")
            yield frame.name, red.copy()


class RunLengthMasks(MaskSource):
    """`{"size": [H, W], "frames": {NAME: {ID: COUNTS}}}`, as `jointrt batch --format rle` writes."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content
        self.names = list(content["frames"])
        self.objects = {int(i): str(name) for i, name in content.get("objects", {}).items()}

    def frames(self) -> Iterator[tuple[str, Labels]]:
        """See `MaskSource`."""
        try:
            height, width = map(int, self.content["size"])
            for name, runs in self.content["frames"].items():
                yield name, from_rle({int(i): str(counts) for i, counts in runs.items()}, (height, width))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(f"{self.path} is no file of run lengths: {error!r}") from None


class CocoMasks(MaskSource):
    """COCO's instance annotations. An object is a `track_id`, or else a category that no image has twice."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        try:
            self.images = {int(i["id"]): i for i in content["images"]}
            self.names = [Path(i["file_name"]).stem for i in self.images.values()]
            names = {int(c["id"]): str(c["name"]) for c in content.get("categories", [])}
            self.parts: dict[int, list[tuple[int, dict[str, Any]]]] = {i: [] for i in self.images}
            tracked = any("track_id" in a for a in content["annotations"])
            for part in content["annotations"]:
                object_id = int(part["track_id" if tracked else "category_id"])
                self.parts[int(part["image_id"])].append((object_id, part))
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{path} is no whole COCO file of images and annotations: {error!r}") from None
        self.objects = {} if tracked else names
        self._refuse_instances(names)

    def _refuse_instances(self, names: dict[int, str]) -> None:
        for image, parts in self.parts.items():
            for object_id, count in Counter(i for i, _ in parts).items():
                if count > 1:
                    file = self.images[image]["file_name"]
                    raise DatasetError(
                        f"{self.path} has {count} annotations of {self.objects[object_id]} in {file} and no `track_id` "
                        "that tells them apart over the frames: expected one an object and frame"
                    )

    def frames(self) -> Iterator[tuple[str, Labels]]:
        """See `MaskSource`."""
        rle = import_rle()
        for name, (image, record) in zip(self.names, self.images.items(), strict=True):
            size = int(record["height"]), int(record["width"])
            labels = np.zeros(size, np.uint8)
            for object_id, part in self.parts[image]:
                if not 0 < object_id < 256:
                    raise DatasetError(f"{self.path} has an object {object_id}: expected ids from 1 to 255")
                labels[self._mask(rle, part["segmentation"], size)] = object_id
            yield name, labels

    def _mask(self, rle: Any, segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
        try:
            if isinstance(segmentation, dict):
                if tuple(segmentation["size"]) != size:
                    raise ValueError(f"run lengths of {segmentation['size']}")
                counts = segmentation["counts"]
                whole = sum(counts) if isinstance(counts, list) else covered_pixels(counts)
                if whole != size[0] * size[1]:
                    raise ValueError("damaged run lengths")
                code = rle.frPyObjects(segmentation, *size) if isinstance(counts, list) else segmentation
            else:
                code = rle.merge(rle.frPyObjects(segmentation, *size))
            found: NDArray[np.bool_] = rle.decode(code) > 0
        except Exception as error:
            raise DatasetError(f"{self.path} has a segmentation that cannot be read: {error}") from None
        return found


class OutlineMasks(MaskSource):
    """YOLO's or labelme's outlines, read by supervision; outlines of one class in an image are parts of one object."""

    def __init__(self, path: Path, frames: Path, *, yolo: bool) -> None:
        supervision = import_supervision()
        images = open_source(frames)
        if not isinstance(images, ImageFolder):
            raise VideoError(f"{frames} is a video: expected the folder of the images that the outlines belong to")
        try:
            if yolo:
                labels = path / "labels" if (path / "labels").is_dir() else path
                self.data = supervision.DetectionDataset.from_yolo(
                    str(frames), str(labels), str(path / "data.yaml"), force_masks=True
                )
            else:
                self.data = supervision.DetectionDataset.from_labelme(str(frames), str(path), force_masks=True)
        except Exception as error:
            raise DatasetError(f"{path} cannot be read by supervision: {error}") from None
        self.sizes = images.size
        files = sorted(self.data.image_paths, key=lambda file: natural_key(Path(file).name))
        self.files = files
        self.names = [Path(file).stem for file in files]
        self.objects = dict(enumerate(self.data.classes, 1))
        self.notes = ("outlines of one class in a picture are taken as parts of one object",)

    def frames(self) -> Iterator[tuple[str, Labels]]:
        """See `MaskSource`."""
        for name, file in zip(self.names, self.files, strict=True):
            yield name, from_detections(self.data.annotations[file], self.sizes)
