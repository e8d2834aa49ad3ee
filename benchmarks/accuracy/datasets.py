"""Benchmark folders: DAVIS 2016 and 2017 (semi-supervised) and YouTube-VOS.

DAVIS: `ROOT/JPEGImages/480p/SEQUENCE/*.jpg`, `ROOT/Annotations/480p/SEQUENCE/*.png` for every frame, and optionally
lists of sequences under `ROOT/ImageSets/`. YouTube-VOS: the same without `480p`, annotations for some frames only, and
`ROOT/meta.json`, which lists the frames to segment.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ValidationError

from ...errors import DatasetError, JointError, SettingsError, VideoError
from ...runtime.settings import Options
from ...runtime.video.masks import read_label_map
from ...runtime.video.sources import ImageFolder

IMAGES, ANNOTATIONS, IMAGE_SETS, META = "JPEGImages", "Annotations", "ImageSets", "meta.json"
RESOLUTION = "480p"
RESOLUTIONS = (RESOLUTION, "Full-Resolution", "1080p")
"""Folders of DAVIS's frames, the one that is taken first."""
VOID = 255
"""Id of the pixels that DAVIS 2017 leaves undecided; in the semi-supervised task they are background."""
FEW = 5
"""Names that a message lists at most."""
SINGLE = 1
"""Id of the object where all objects are taken as one."""

Layout = Literal["auto", "davis", "youtube"]


@dataclass(frozen=True, slots=True)
class Sequence:
    """One sequence, checked.

    Attributes:
        name: the folders' name.
        images: all frames.
        annotations: annotation files by frame name.
        starts: the ids that start in a frame, by frame name, in the frames' order.
        required: names of the frames that need a mask, in order.
        scored: names of the frames that count, by object; empty where there is no truth.
        single_object: whether everything that is not background is one object, of id `SINGLE`.
    """

    name: str
    images: ImageFolder
    annotations: Mapping[str, Path]
    starts: Mapping[str, tuple[int, ...]]
    required: tuple[str, ...]
    scored: Mapping[int, tuple[str, ...]]
    single_object: bool

    @property
    def first(self) -> int:
        """Number of the first frame that has an object."""
        index = self.images.index_of(next(iter(self.starts)))
        assert index is not None
        return index

    def truth(self, frame: str) -> NDArray[np.uint8]:
        """Label map (H, W) of an annotated frame."""
        return _truth(self.annotations[frame], self.single_object)

    def given(self, frame: str) -> NDArray[np.uint8] | None:
        """Label map (H, W) of the objects that start in a frame; None if none does."""
        if frame not in self.starts:
            return None
        labels = self.truth(frame)
        return np.where(np.isin(labels, self.starts[frame]), labels, np.uint8(0))

    def result(self, file: Path) -> NDArray[np.uint8]:
        """Read a mask of this sequence that was made elsewhere.

        Raises:
            DatasetError: its size differs from the frames', or it holds an object that the sequence has not.
            MaskError: it cannot be read.
        """
        labels = _objects(read_label_map(file), single_object=False) if not self.single_object else read_label_map(file)
        if labels.shape != self.images.size:
            raise DatasetError(
                f"{file} is {_size(labels.shape)}, the frames of {self.name} are {_size(self.images.size)}: expected "
                "masks of the frames' size; resize with nearest neighbour"
            )
        if self.single_object:
            return _objects(labels, single_object=True)
        known = {i for ids in self.starts.values() for i in ids}
        foreign = [int(i) for i in np.unique(labels) if i and i not in known]
        if foreign:
            raise DatasetError(
                f"{file} holds ids {few(foreign)}: the truth of {self.name} has {few(sorted(known))}; number the "
                "objects as in its first annotation"
            )
        return labels


class Dataset(Protocol):
    """A benchmark folder.

    Attributes:
        root: the folder.
        names: the sequences to run, unless others are asked for.
        makes_submission: whether results are handed in as an archive, because truth is withheld.
    """

    root: Path
    names: tuple[str, ...]
    makes_submission: bool

    def sequence(self, name: str) -> Sequence:
        """Check a sequence's files.

        Raises:
            DatasetError: something is missing or does not fit; names it.
        """


def open_dataset(root: Path, layout: str = "auto", *, split: str | None = None, single_object: bool = False) -> Dataset:
    """Open a benchmark folder.

    Args:
        root: the folder that holds `JPEGImages` and `Annotations`.
        layout: "davis", "youtube", or "auto": DAVIS if there is a folder `JPEGImages/480p` or `Full-Resolution`.
        split: DAVIS only: name of the list under `ImageSets`; "val" if None and there is one, else all folders.
        single_object: take everything that is not background as one object, as DAVIS 2016 does; sequences whose first
            annotation is black and white are always taken so.

    Raises:
        DatasetError: the folder has another layout; a listed sequence is missing.
        SettingsError: `layout` or `split` cannot be.
    """
    if layout not in get_args(Layout):
        raise SettingsError(f"layout is {layout!r}: expected one of {', '.join(get_args(Layout))}")
    for folder in (root / IMAGES, root / ANNOTATIONS):
        if not folder.is_dir():
            raise DatasetError(
                f"{root} has no folder {folder.name}: expected a DAVIS or YouTube-VOS folder, with {IMAGES} and "
                f"{ANNOTATIONS}"
            )
    if layout == "auto":
        layout = "davis" if any((root / IMAGES / r).is_dir() for r in RESOLUTIONS) else "youtube"
    if layout == "davis":
        return Davis(root, split, single_object)
    if split is not None or single_object:
        wanted = "split" if split is not None else "single object"
        raise SettingsError(
            f"{root} is read as YouTube-VOS, which knows no {wanted}: leave it out, or give layout davis"
        )
    return YouTubeVos(root)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetOptions(Options):
    """Which sequences of which folder, and what they are segmented with, `Options` included.

    Attributes:
        root, layout, split, single_object: see `open_dataset`.
        sequences: their names; the data set's own choice if empty.
    """

    root: Path
    layout: str = "auto"
    split: str | None = None
    single_object: bool = False
    sequences: tuple[str, ...] = ()

    def open(self) -> Dataset:
        """The folder; errors as of `open_dataset`."""
        return open_dataset(self.root, self.layout, split=self.split, single_object=self.single_object)


def choose_sequences(dataset: Dataset, names: Iterable[str]) -> list[Sequence]:
    """The named sequences, or the data set's own choice if there are no names, checked.

    Raises:
        DatasetError: there is no such sequence, or one of them does not fit.
    """
    return [dataset.sequence(name) for name in (tuple(dict.fromkeys(names)) or dataset.names)]


def sound_sequences(dataset: Dataset, names: Iterable[str]) -> tuple[list[Sequence], dict[str, str]]:
    """As `choose_sequences`, but of the data set's own choice those that do not fit are left out.

    Returns:
        The sequences, and by name why others are left out.

    Raises:
        DatasetError: a named sequence does not fit, or none does.
    """
    named = tuple(names)
    if named:
        return choose_sequences(dataset, named), {}
    found: list[Sequence] = []
    left_out: dict[str, str] = {}
    for name in dataset.names:
        try:
            found.append(dataset.sequence(name))
        except JointError as error:
            left_out[name] = str(error)
    if not found:
        raise DatasetError(next(iter(left_out.values())))
    return found, left_out


class Davis:
    """DAVIS 2016 or 2017, semi-supervised: objects are the first annotation's; first and last frame do not count."""

    makes_submission = False

    def __init__(self, root: Path, split: str | None, single_object: bool) -> None:
        self.root = root
        self.single_object = single_object
        there = [r for r in RESOLUTIONS if all((root / part / r).is_dir() for part in (IMAGES, ANNOTATIONS))]
        if not there:
            raise DatasetError(
                f"{root} has neither of {', '.join(RESOLUTIONS)} in both {IMAGES} and {ANNOTATIONS}: expected DAVIS's "
                "frames and annotations"
            )
        self._images, self._annotations = root / IMAGES / there[0], root / ANNOTATIONS / there[0]
        present = set(_folders(self._images)) | set(_folders(self._annotations))
        listed = self._listed(split)
        self.names = tuple(sorted(present)) if listed is None else listed
        missing = [name for name in self.names if name not in present]
        if missing:
            raise DatasetError(
                f"{root} lacks {len(missing)} of the {len(self.names)} sequences of the list {split or 'val'!r}: "
                f"{few(missing)}; complete the folder, or choose with --sequences"
            )
        if not self.names:
            raise DatasetError(f"{self._images} holds no sequence")

    def _listed(self, split: str | None) -> tuple[str, ...] | None:
        """Names of the list; DAVIS 2016's own lists pair an image with an annotation on every line."""
        folders = ("2016", RESOLUTION, "2017") if self.single_object else ("2017", "2016", RESOLUTION)
        name = split or "val"
        if Path(name).name != name:
            raise SettingsError(f"split is {name!r}: expected the name of a list, as val")
        for folder in folders:
            file = self.root / IMAGE_SETS / folder / f"{name}.txt"
            if file.is_file():
                lines = [line.split() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
                first = [words[0] for words in lines if words]
                return tuple(dict.fromkeys(Path(word).parent.name if "/" in word else word for word in first))
        if split is not None:
            raise DatasetError(f"{self.root / IMAGE_SETS} holds no list {split}.txt in {', '.join(folders)}")
        return None

    def sequence(self, name: str) -> Sequence:
        """See `Dataset.sequence`."""
        images, annotations = _open_folders(name, self._images, self._annotations)
        frames = [file.stem for file in images.files]
        _refuse_gaps(name, frames, images.path)
        lacking = [frame for frame in frames if frame not in annotations]
        # Truth of the test sets is withheld: only the first frame is annotated.
        withheld = lacking == frames[1:]
        if lacking and not withheld:
            raise DatasetError(
                f"{name}: {len(lacking)} of {len(frames)} frames have no annotation in {self._annotations / name}: "
                f"{few(lacking)}; expected one for every frame"
            )
        if len(frames) < 3:
            raise DatasetError(
                f"{name} has {len(frames)} frames: expected 3 or more, as the first and last do not count"
            )
        first = annotations[frames[0]]
        single = self.single_object or _black_and_white(first)
        ids = _ids(_truth(first, single))
        if not ids:
            raise DatasetError(f"{first} is empty: expected the objects of {name} in its first annotation")
        return Sequence(
            name=name,
            images=images,
            annotations=annotations,
            starts={frames[0]: ids},
            required=tuple(frames),
            scored={} if withheld else {i: tuple(frames[1:-1]) for i in ids},
            single_object=single,
        )


class _MetaObject(BaseModel):
    frames: list[str]


class _MetaVideo(BaseModel):
    objects: dict[int, _MetaObject]


class _Meta(BaseModel):
    videos: dict[str, _MetaVideo]


class YouTubeVos:
    """YouTube-VOS: objects start where they are first annotated and are scored in later annotated frames.

    Where all annotations are black and white, there is one object, as in DAVIS 2016.

    The validation set annotates a frame only for the objects that start in it. So a sequence counts as having truth if
    it annotates at least one frame in which no object starts.
    """

    makes_submission = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self._images, self._annotations = root / IMAGES, root / ANNOTATIONS
        self._meta = _read_meta(root / META)
        present = set(_folders(self._images)) | set(_folders(self._annotations))
        if self._meta is None:
            self.names = tuple(sorted(present))
        else:
            self.names = tuple(sorted(self._meta.videos))
            missing = [name for name in self.names if name not in present]
            if missing:
                raise DatasetError(
                    f"{root} lacks {len(missing)} of the {len(self.names)} videos of {META}: {few(missing)}; complete "
                    "the folder, or choose with --sequences"
                )
        if not self.names:
            raise DatasetError(f"{self._images} holds no sequence")

    def sequence(self, name: str) -> Sequence:
        """See `Dataset.sequence`."""
        images, annotations = _open_folders(name, self._images, self._annotations)
        frames = [file.stem for file in images.files]
        starts: dict[str, tuple[int, ...]] = {}
        known: set[int] = set()
        single = _only_black_and_white(annotations.values())
        for frame in frames:
            if frame in annotations:
                new = set(_ids(_truth(annotations[frame], single))) - known
                if new:
                    starts[frame] = tuple(sorted(new))
                    known |= new
        if not starts:
            raise DatasetError(f"{self._annotations / name} holds no object: expected one in the first annotation")
        required = self._required(name, frames, starts)
        return Sequence(
            name=name,
            images=images,
            annotations=annotations,
            starts=starts,
            required=required,
            scored=_scored_after_start(frames, required, annotations, starts),
            single_object=single,
        )

    def _required(self, name: str, frames: list[str], starts: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
        """The frames that `meta.json` lists for any object; without it, all from the first object on."""
        following = frames[frames.index(next(iter(starts))) :]
        if self._meta is None:
            return tuple(following)
        video = self._meta.videos.get(name)
        if video is None:
            raise DatasetError(f"{self.root / META} does not list {name}: expected all videos of {self._images}")
        given = {i for ids in starts.values() for i in ids}
        unknown = sorted(set(video.objects) - given)
        if unknown:
            raise DatasetError(
                f"{name}: {META} lists objects {few(unknown)}, which no annotation in {self._annotations / name} shows"
            )
        wanted = {frame for listed in video.objects.values() for frame in listed.frames}
        missing = sorted(wanted - set(frames))
        if missing:
            raise DatasetError(
                f"{name}: {len(missing)} of {len(wanted)} frames that {META} lists are missing in "
                f"{self._images / name}: {few(missing)}"
            )
        return tuple(frame for frame in following if frame in wanted)


def _scored_after_start(
    frames: list[str],
    required: tuple[str, ...],
    annotations: Mapping[str, Path],
    starts: Mapping[str, tuple[int, ...]],
) -> dict[int, tuple[str, ...]]:
    """Annotated frames that come later than an object's first, by object; none where every one starts an object."""
    annotated = [frame for frame in required if frame in annotations]
    if all(frame in starts for frame in annotated):
        return {}
    order = {frame: number for number, frame in enumerate(frames)}
    scored = {i: tuple(a for a in annotated if order[a] > order[frame]) for frame, ids in starts.items() for i in ids}
    return {i: later for i, later in sorted(scored.items()) if later}


def _read_meta(path: Path) -> _Meta | None:
    try:
        return _Meta.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise DatasetError(f"{path} cannot be read ({first}): expected videos, their objects and frames") from None


def _folders(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _open_folders(name: str, images: Path, annotations: Path) -> tuple[ImageFolder, dict[str, Path]]:
    """Frames and annotation files of a sequence; all of one size, every annotation belonging to a frame."""
    if not name or Path(name).name != name:
        raise DatasetError(f"{name!r} is no sequence: expected the name of a folder in {images}")
    for folder in (images / name, annotations / name):
        if not folder.is_dir():
            raise DatasetError(f"no sequence {name!r}: {folder} does not exist; found {few(sorted(_folders(images)))}")
    try:
        source = ImageFolder(images / name)
    except VideoError as error:
        raise DatasetError(str(error)) from None
    files = {file.stem: file for file in sorted((annotations / name).glob("*.png")) if not file.name.startswith(".")}
    orphans = [frame for frame in files if source.index_of(frame) is None]
    if orphans:
        raise DatasetError(
            f"{name}: {len(orphans)} annotations have no frame in {images / name}: {few(orphans)}; complete the frames"
        )
    for file in files.values():
        size = _image_size(file)
        if size != source.size:
            raise DatasetError(
                f"{file} is {_size(size)}, the frames of {name} are {_size(source.size)}: expected the same size"
            )
    return source, files


def _image_size(file: Path) -> tuple[int, int]:
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise DatasetError(f"{file} cannot be read as an image: expected a PNG; fetch it again") from None


def _refuse_gaps(name: str, frames: list[str], folder: Path) -> None:
    """DAVIS numbers its frames without gaps from 0."""
    if not all(frame.isascii() and frame.isdigit() for frame in frames):
        return
    numbers = {int(frame) for frame in frames}
    count = max(numbers) + 1 - len(numbers)
    if count:
        # Names such as times leave gaps that nobody could list.
        gaps = itertools.islice((n for n in range(max(numbers)) if n not in numbers), FEW)
        told = ", ".join(f"{number:05d}" for number in gaps) + (f" and {count - FEW} more" if count > FEW else "")
        raise DatasetError(f"{name}: {count} frames are missing in {folder}: {told}; complete the folder")


def _black_and_white(file: Path) -> bool:
    return _values_in(file) == {0, VOID}


def _only_black_and_white(files: Iterable[Path]) -> bool:
    """Whether no annotation has another value than black and white: then white is the object, not the void."""
    found: set[int] = set()
    for file in files:
        found |= _values_in(file)
        if not found <= {0, VOID}:
            return False
    return VOID in found


def _values_in(file: Path) -> set[int]:
    try:
        with Image.open(file) as image:
            return set(np.unique(np.asarray(image if image.mode in ("P", "L") else image.convert("L"))).tolist())
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{file} cannot be read as an image ({error}): expected a PNG; fetch it again") from None


def _truth(file: Path, single_object: bool) -> NDArray[np.uint8]:
    """Label map (H, W) of an annotation; among numbered objects, white alone is the void."""
    return _objects(read_label_map(file, white=SINGLE if single_object else VOID), single_object)


def _objects(labels: NDArray[np.uint8], single_object: bool) -> NDArray[np.uint8]:
    if single_object:
        return np.where(labels > 0, np.uint8(SINGLE), np.uint8(0))
    return np.where(labels == VOID, np.uint8(0), labels)


def _ids(labels: NDArray[np.uint8]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unique(labels) if i)


def few(names: Iterable[object], limit: int = FEW) -> str:
    """The first names, and how many more there are."""
    listed = [str(name) for name in names]
    more = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {more} more" if more > 0 else "")


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
