"""What a person made of a film, kept on disk as it is made."""

from __future__ import annotations

import json
import struct
import threading
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ..errors import OutputError, SettingsError
from ..files import replace_file
from ..runtime.video.masks import MAX_OBJECTS, distinct_colours, read_label_map
from .history import Change, History, Removal
from .record import Object, Record, Seen

Labels = NDArray[np.uint8]
_COLOUR_TYPE, _GREY = 25, b"\0"  # Of a PNG's header.
# Runs of unfiltered ids: 1920x1080 in a fifth of the time, and half the size, of OpenCV's own choice of filters.
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # Later than OpenCV 4.10.
    _PNG += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]


class Project:
    """Objects, masks and what was given, in a folder; every change is on disk when its method returns."""

    def __init__(self, folder: Path, fingerprint: str, size: tuple[int, int]) -> None:
        """Open or begin.

        Args:
            folder: of the project.
            fingerprint: of the film.
            size: the film's width and height.

        Raises:
            OutputError: the folder holds another film's project, or one that cannot be read, or another studio has it.
        """
        self.folder = folder
        self.size = size
        self._lock = threading.RLock()
        self._decoded: tuple[bytes, Labels] = (b"", np.zeros((0, 0), np.uint8))
        self._file = folder / "project.json"
        self._masks = folder / "masks"
        self._masks.mkdir(parents=True, exist_ok=True)
        self._alone = _locked(folder / ".lock")
        self._history = History(folder / "history")
        if not self._file.exists():
            self.record = Record(fingerprint=fingerprint)
            self._history.clear()
            return
        try:
            self.record = Record.model_validate_json(self._file.read_bytes())
        except (OSError, ValidationError):
            raise OutputError(f"{self._file} cannot be read as a project: move it away to begin anew") from None
        if self.record.fingerprint != fingerprint:
            raise OutputError(f"{folder} is the project of another film: move it away to begin anew")

    def close(self) -> None:
        """Save, and let another studio have it."""
        self.save()
        self._alone.close()

    def save(self) -> None:
        """Write the project file aside and rename it."""
        with self._lock:
            replace_file(self._file, self.record.model_dump_json().encode())

    def labels(self, frame: int) -> Labels:
        """Label map (H, W) of a frame, 0 where there are no masks.

        Raises:
            OutputError: the file that holds it is damaged.
        """
        content = self._png(frame)
        if content is None:
            return np.zeros(self.size[::-1], np.uint8)
        with self._lock:
            if content != self._decoded[0]:
                labels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
                if labels is None:
                    raise OutputError(f"{self._mask(frame)} is damaged: delete it, or put another in its place")
                self._decoded = (content, np.asarray(labels, np.uint8))
            return self._decoded[1].copy()

    def _png(self, frame: int) -> bytes | None:
        """A frame's masks as a grey PNG, its values the ids; None if there are none."""
        file = self._mask(frame)
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        return content if content[_COLOUR_TYPE : _COLOUR_TYPE + 1] == _GREY else as_png(read_label_map(file, hard=True))

    def frames(self) -> list[int]:
        """Frames that have masks."""
        return sorted(int(file.stem) for file in self._masks.glob("[0-9]*.png"))

    def object(self, object_id: int) -> Object:
        """An object by its id.

        Raises:
            SettingsError: there is none.
        """
        for item in self.record.objects:
            if item.id == object_id:
                return item
        raise SettingsError(f"there is no object {object_id}: make one first")

    def add(self) -> Object:
        """A new object with a free id.

        Raises:
            SettingsError: there are 255.
        """
        with self._lock:
            used = {item.id for item in self.record.objects}
            if len(used.union(self.record.gone)) == MAX_OBJECTS:
                self._history.clear()
                self.record.gone = []
            used.update(self.record.gone)
            free = next((i for i in range(1, MAX_OBJECTS + 1) if i not in used), None)
            if free is None:
                raise SettingsError(f"there are {MAX_OBJECTS} objects already: expected at most so many")
            hue = np.array([[[(free * 67 - 40) % 180, 165, 245]]], np.uint8)
            red, green, blue = cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0]
            item = Object(id=free, name=f"object {free}", colour=f"#{red:02x}{green:02x}{blue:02x}")
            self.record.objects.append(item)
            self.save()
            return item

    def rename(self, object_id: int, name: str, colour: str) -> None:
        """Give an object another name and colour.

        Raises:
            SettingsError: there is no such object, or the name or colour is none.
        """
        with self._lock:
            item = self.object(object_id)
            try:
                changed = Object(id=object_id, name=name, colour=colour)
            except ValidationError:
                raise SettingsError(
                    f"name {name[:90]!r}, colour {colour[:20]!r}: expected 80 letters, #rrggbb"
                ) from None
            item.name, item.colour = changed.name, changed.colour
            self.save()

    def remove(self, object_id: int) -> list[int]:
        """Take an object out of all frames. Returns the frames in which it was.

        Raises:
            OutputError: a mask is damaged, or what must be kept cannot be written.
            SettingsError: there is no such object.
        """
        with self._lock:
            removal = self._removal(object_id)
            self._history.add(removal)
            return self._take_out(removal)

    def merged(self, frame: int, object_id: int, region: NDArray[np.bool_]) -> Labels:
        """A frame's label map with an object where it is said to be, and nowhere else.

        Raises:
            OutputError: the frame's masks are damaged.
            SettingsError: there is no such object.
        """
        self.object(object_id)
        labels = self.labels(frame)
        labels[labels == object_id] = 0
        labels[region] = object_id
        return labels

    def edit(self, frame: int, object_id: int, labels: Labels) -> None:
        """A person gave an object in a frame, which made its label map this one.

        Raises:
            OutputError: it cannot be written.
        """
        with self._lock:
            before, given = self._png(frame), list(self.record.given.get(frame, []))
            content, after = as_png(labels), sorted({*given, object_id})
            self._history.add(Change(frame=frame, before=before, after=content, given_before=given, given_after=after))
            self._put(frame, labels, content, after)

    def undo(self, *, again: bool = False) -> list[int] | None:
        """Take the last change back, or make it again. Returns the frames it touches; None if there is none.

        Raises:
            OutputError: what is kept of the change is damaged.
        """
        with self._lock:
            change = self._history.next(again=again)
            if change is None:
                return None
            if isinstance(change, Change):
                touched = self._turn(change, again=again)
            elif again:  # Frames may have been tracked since it was made first.
                change = removal = self._removal(change.object.id)
                touched = self._take_out(removal)
            else:
                touched = self._bring_back(change)
            self._history.moved(change, again=again)
            return touched

    def computed(self, frame: int, labels: Labels, seen: dict[int, Seen]) -> None:
        """Take what the network found in a frame; the project file is left for `save`."""
        content = as_png(labels)
        with self._lock:
            self._write(frame, content)
            self.record.seen[frame] = seen

    def rebuild_seen(self) -> None:
        """Note frames whose masks were written after the project file was."""
        with self._lock:
            for frame in self.frames():
                if frame not in self.record.seen:
                    self.record.seen[frame] = _areas(self.labels(frame))

    def describe(self) -> dict[str, Any]:
        """What the page shows."""
        with self._lock:
            plain: dict[str, Any] = json.loads(self.record.model_dump_json())
            undo, redo = self._history.counts
            return {**plain, "undo": undo, "redo": redo}

    def _turn(self, change: Change, *, again: bool) -> list[int]:
        """Put a frame as it was before a change, or after it."""
        content, given = (change.after, change.given_after) if again else (change.before, change.given_before)
        if content is None:
            content = as_png(np.zeros(self.size[::-1], np.uint8))
        labels = self._kept(content, change.frame)
        alive = [item.id for item in self.record.objects]
        self._put(change.frame, labels, content, [i for i in given if i in alive])
        return [change.frame]

    def _removal(self, object_id: int) -> Removal:
        """What an object is in all frames."""
        item = self.object(object_id)
        regions = {}
        for frame in self.frames():
            region = self.labels(frame) == object_id
            if region.any():
                regions[frame] = as_png(region.view(np.uint8))
        return Removal(
            object=item.model_copy(),
            place=self.record.objects.index(item),
            regions=regions,
            given=[frame for frame, ids in self.record.given.items() if object_id in ids],
            seen={frame: here[object_id] for frame, here in self.record.seen.items() if object_id in here},
        )

    def _take_out(self, removal: Removal) -> list[int]:
        object_id = removal.object.id
        for frame in removal.regions:
            labels = self.labels(frame)
            labels[labels == object_id] = 0
            self._write(frame, as_png(labels))
        for frame in removal.given:
            self._give(frame, [i for i in self.record.given[frame] if i != object_id])
        for here in self.record.seen.values():
            here.pop(object_id, None)
        self.record.objects.remove(self.object(object_id))
        self.record.gone = sorted({*self.record.gone, object_id})
        self.save()
        return sorted({*removal.regions, *removal.given})

    def _bring_back(self, removal: Removal) -> list[int]:
        """Undo `_take_out`; where another object was tracked meanwhile, that stays."""
        object_id = removal.object.id
        for frame, content in removal.regions.items():
            labels = self.labels(frame)
            labels[(self._kept(content, frame) != 0) & (labels == 0)] = object_id
            self._write(frame, as_png(labels))
            there = int((labels == object_id).sum())
            known = removal.seen.get(frame)
            if there:
                self.record.seen.setdefault(frame, {})[object_id] = Seen(area=there, sure=known.sure if known else 1.0)
        for frame in removal.given:
            self._give(frame, sorted({*self.record.given.get(frame, []), object_id}))
        # It is still there if the studio was killed before it was gone.
        others = [item for item in self.record.objects if item.id != object_id]
        self.record.objects = [*others[: removal.place], removal.object, *others[removal.place :]]
        self.record.gone = [i for i in self.record.gone if i != object_id]
        self.save()
        return sorted({*removal.regions, *removal.given})

    def _kept(self, content: bytes, frame: int) -> Labels:
        """A label map out of the history."""
        labels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if labels is None or labels.shape != self.size[::-1]:
            self._history.clear()
            raise OutputError(f"what was kept of frame {frame + 1} is damaged: it cannot be undone")
        return np.asarray(labels, np.uint8)

    def _put(self, frame: int, labels: Labels, content: bytes, given: list[int]) -> None:
        self._write(frame, content)
        self._decoded = (content, labels)
        self.record.seen[frame] = _areas(labels)
        self._give(frame, given)
        self.save()

    def _give(self, frame: int, ids: list[int]) -> None:
        if ids:
            self.record.given[frame] = ids
        else:
            self.record.given.pop(frame, None)

    def _mask(self, frame: int) -> Path:
        return self._masks / f"{frame:06d}.png"

    def _write(self, frame: int, content: bytes) -> None:
        replace_file(self._mask(frame), content)


def colours(objects: list[Object]) -> NDArray[np.uint8]:
    """Colours (256, 3) by id."""
    table = distinct_colours().copy()
    for item in objects:
        table[item.id] = [int(item.colour[i : i + 2], 16) for i in (1, 3, 5)]
    return table


def _locked(file: Path) -> IO[bytes]:
    """A file that one process has; the system frees it when that ends, however it does."""
    stream = file.open("wb")
    try:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass  # Windows: nobody is kept out.
    except OSError:
        stream.close()
        raise OutputError(f"another studio works on {file.parent.name}: close that one first") from None
    return stream


def counted(labels: Labels) -> NDArray[np.int64]:
    """Pixels (256,) of each id."""
    histogram = cv2.calcHist([labels], [0], None, [256], [0, 256])  # In fp32, exact to 16 million pixels.
    return histogram.ravel().astype(np.int64)


def _areas(labels: Labels) -> dict[int, Seen]:
    counts = counted(labels)
    return {int(i): Seen(area=int(counts[i]), sure=1.0) for i in np.flatnonzero(counts) if i}


def as_png(labels: Labels) -> bytes:
    """A label map as a grey PNG, its values the ids."""
    return cv2.imencode(".png", labels, _PNG)[1].tobytes()


def as_runs(labels: Labels) -> bytes:
    """A label map as the page takes it: the count of runs and the pixels at which they start, uint32, and their ids."""
    flat = labels.ravel()
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1)).astype("<u4")
    return struct.pack("<I", len(starts)) + starts.tobytes() + flat[starts].tobytes()
