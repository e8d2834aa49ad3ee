"""What `torch.save` wrote, read without torch: the zip archive (since torch 1.6), the stream and the tar before it.

The layouts are those of torch's `serialization.py`. Storages stay in the file until their tensors are asked for.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...errors import WeightsError
from .stored_tensor import BUILDERS, DTYPES, MAX_DIMENSIONS, Storage, StoredTensor, storage_kind, stored_tensor
from .unpickle import INERT, MAX_BYTES, read_pickle

_STREAM_MAGIC = 0x1950A86A20F9469CFC6C
_STREAM_PROTOCOL = 1001
_ZIP_HEADER = struct.Struct("<4s22xHH")
_TAR_ENTRY = 64 << 10


@dataclass(frozen=True, slots=True)
class _Place:
    start: int
    big_endian: bool = False
    crc: int | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint's content: dicts, lists, tuples and plain values; tensors as `StoredTensor`, the rest inert."""

    path: Path
    content: Any
    places: Mapping[str, _Place]

    def arrays(self, tensors: Mapping[str, StoredTensor]) -> dict[str, NDArray[Any]]:
        """The values of tensors of this checkpoint, by name; each takes as much memory as its shape says.

        Raises:
            WeightsError: the file has changed, or its checksums do not fit.
        """
        storages: dict[str, NDArray[Any]] = {}
        found = {}
        for name, tensor in tensors.items():
            key = tensor.storage.key
            if key not in storages:
                storages[key] = self._storage(tensor.storage)
            found[name] = tensor.view(storages[key])
        return found

    def _storage(self, storage: Storage) -> NDArray[Any]:
        place = self.places[storage.key]
        dtype = DTYPES[storage.kind]
        try:
            values = np.fromfile(self.path, dtype, storage.count, offset=place.start)
        except (OSError, MemoryError) as error:
            raise WeightsError(f"{self.path} cannot be read ({error})") from None
        changed = place.crc is not None and values.size > 0 and zlib.crc32(values.data.cast("B")) != place.crc
        if values.size != storage.count or changed:
            raise WeightsError(
                f"{self.path} is damaged: storage {storage.key} is not what was saved; download it again"
            )
        return values.byteswap() if place.big_endian else values


class _Storages:
    """Collects the storages that a pickle refers to by persistent ids ("storage", class, key, location, count, ...)."""

    def __init__(self) -> None:
        self.by_key: dict[str, Storage] = {}

    def __call__(self, identity: Any) -> Any:
        if not isinstance(identity, tuple) or len(identity) < 2:
            return INERT
        # The stream layout pickles a module's class together with its source text.
        if identity[0] == "module":
            return identity[1]
        if identity[0] != "storage" or len(identity) < 5 or identity[5:] not in ((), (None,)):
            return INERT
        kind, key, count = storage_kind(identity[1]), identity[2], identity[4]
        if kind is None or not isinstance(key, str) or type(count) is not int or not 0 <= count < 1 << 48:
            return INERT
        storage = self.by_key.setdefault(key, Storage(key, kind, count))
        if storage != Storage(key, kind, count):
            raise WeightsError(f"storage {key:.40} is described in two ways")
        return storage


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint's structure; nothing in the file is run.

    Raises:
        WeightsError: the file is missing, truncated or foreign; one line says what was found.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is a folder, expected a file" if path.is_dir() else f"no such checkpoint: {path}")
    try:
        with path.open("rb") as file:
            start = file.read(512)
            file.seek(0)
            content, places = _layout(start)(file, path.stat().st_size)
    except MemoryError:
        raise WeightsError(f"{path} declares more data than this machine can hold") from None
    # Each parser has errors of its own for a file that is not what it seems; all of them mean that.
    except Exception as error:
        found = " ".join(str(error).split())[:160] or type(error).__name__
        raise WeightsError(
            f"{path} is not a whole checkpoint of torch.save ({found}); its first bytes are {start[:8]!r}: "
            "expected a .pth.tar or .pth file, download it again"
        ) from None
    return Checkpoint(path, content, places)


_Read = tuple[Any, dict[str, _Place]]


def _layout(start: bytes) -> Callable[[BinaryIO, int], _Read]:
    if start.startswith(b"PK\x03\x04"):
        return _read_zip
    return _read_tar if start[257:262] == b"ustar" else _read_stream


def _read_zip(file: BinaryIO, size: int) -> _Read:
    if not zipfile.is_zipfile(file):
        raise WeightsError(f"a zip archive that is truncated at {size} bytes, without its table of contents")
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise WeightsError("a zip archive without a data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        order = _zip_entry(archive, entries[folder + "byteorder"]) if folder + "byteorder" in entries else b"little"
        if order.strip() not in (b"little", b"big"):
            raise WeightsError(f"byte order {order[:20]!r}")
        storages = _Storages()
        content, _ = read_pickle(_zip_entry(archive, entries[pickles[0]]), storages, BUILDERS)
        places = {}
        for storage in storages.by_key.values():
            info = entries.get(f"{folder}data/{storage.key}")
            if info is None or info.file_size != storage.nbytes:
                raise WeightsError(f"storage {storage.key:.40} is not there with its {storage.count} elements")
            places[storage.key] = _Place(_zip_start(file, info, size), order.strip() == b"big", info.CRC)
        return content, places


def _zip_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    _check_stored(info)
    if info.file_size > MAX_BYTES:
        raise WeightsError(f"{info.filename:.40} has {info.file_size} bytes")
    return archive.read(info)


def _check_stored(info: zipfile.ZipInfo) -> None:
    # Torch writes without compression; what is compressed could unfold to any size.
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
        raise WeightsError(f"{info.filename:.40} is compressed or encrypted, which torch.save does not do")


def _zip_start(file: BinaryIO, info: zipfile.ZipInfo, size: int) -> int:
    _check_stored(info)
    file.seek(info.header_offset)
    magic, name, extra = _ZIP_HEADER.unpack(file.read(_ZIP_HEADER.size))
    start = info.header_offset + _ZIP_HEADER.size + name + extra
    if magic != b"PK\x03\x04" or start + info.file_size > size:
        raise WeightsError(f"{info.filename:.40} lies beyond the file's end")
    return int(start)


def _read_stream(file: BinaryIO, size: int) -> _Read:
    storages = _Storages()
    if _next_pickle(file, storages) != _STREAM_MAGIC:
        raise WeightsError("a pickle, but none of torch.save")
    protocol, _, content, keys = (_next_pickle(file, storages) for _ in range(4))
    if protocol != _STREAM_PROTOCOL or not isinstance(keys, list):
        raise WeightsError(f"layout {str(protocol)[:20]} of torch.save, expected {_STREAM_PROTOCOL}")
    places: dict[str, _Place] = {}
    for key in keys:
        storage = storages.by_key.get(key) if isinstance(key, str) else None
        if storage is None:
            raise WeightsError("a storage of unknown type, past which the file cannot be read")
        places[key] = _Place(_raw_storage(file, storage, size))
    if len(places) < len(storages.by_key):
        raise WeightsError(f"{len(places)} of {len(storages.by_key)} storages are there")
    return content, places


def _raw_storage(file: BinaryIO, storage: Storage, size: int) -> int:
    """Skip a storage that follows its count as an int64; returns where it starts."""
    header = file.read(8)
    start = file.tell()
    if len(header) < 8 or start + storage.nbytes > size:
        raise WeightsError(f"truncated at {size} bytes, before the end of the storages")
    if struct.unpack("<q", header)[0] != storage.count:
        raise WeightsError(f"storage {storage.key:.40} does not have its {storage.count} elements")
    file.seek(storage.nbytes, 1)
    return start


def _next_pickle(file: BinaryIO, persistent: Callable[[Any], Any], limit: int = MAX_BYTES) -> Any:
    start = file.tell()
    value, length = read_pickle(file.read(limit), persistent, BUILDERS)
    file.seek(start + length)
    return value


def _read_tar(file: BinaryIO, size: int) -> _Read:
    members = _tar_members(file, size)
    if not {"storages", "tensors", "pickle"} <= members.keys():
        raise WeightsError(f"a tar archive of {', '.join(members)[:80] or 'nothing'}; unpack it first")
    file.seek(members["storages"])
    storages, places = _tar_storages(file, size)
    file.seek(members["tensors"])
    tensors = _tar_tensors(file, storages)

    def persistent(identity: Any) -> Any:
        # Classes come with their source text; all else is a tensor's or a storage's number.
        return identity[0] if isinstance(identity, tuple) else tensors.get(int(identity), INERT)

    file.seek(members["pickle"])
    return _next_pickle(file, persistent), places


def _tar_members(file: BinaryIO, size: int) -> dict[str, int]:
    """Names of a tar's regular files -> where their contents start. The `tarfile` of early Pythons can loop forever."""
    members = {}
    position = 0
    while position + 512 <= size:
        file.seek(position)
        header = file.read(512)
        if not header.strip(b"\0"):
            break
        length = int(header[124:136].strip(b"\0 ") or b"0", 8)
        if length < 0 or position + 512 + length > size:
            raise WeightsError("a tar archive that is truncated")
        if header[156:157] in (b"0", b"\0"):
            members[header[:100].rstrip(b"\0").decode("ascii", "replace")] = position + 512
        position += 512 + -(-length // 512) * 512
    return members


def _tar_storages(file: BinaryIO, size: int) -> tuple[dict[int, tuple[Storage, int]], dict[str, _Place]]:
    """By number: a storage and an offset into it; and where storages lie."""
    storages: dict[int, tuple[Storage, int]] = {}
    places = {}
    for _ in range(_tar_count(file)):
        number, _, named = _next_pickle(file, _nothing, _TAR_ENTRY)
        kind = storage_kind(named)
        (count,) = struct.unpack("<q", file.read(8))
        if kind is None or type(number) is not int or count < 0:
            raise WeightsError("a storage of unknown type, past which the file cannot be read")
        file.seek(-8, 1)
        storage = Storage(str(number), kind, count)
        places[storage.key] = _Place(_raw_storage(file, storage, size))
        storages[number] = storage, 0
    for target, root, offset, _ in _next_pickle(file, _nothing):
        if any(type(n) is not int for n in (target, root, offset)):
            raise WeightsError("a tar archive, but none of torch.save")
        storages[target] = storages[root][0], offset
    return storages, places


def _tar_tensors(file: BinaryIO, storages: Mapping[int, tuple[Storage, int]]) -> dict[int, Any]:
    tensors = {}
    for _ in range(_tar_count(file)):
        number, storage_number, _ = _next_pickle(file, _nothing, _TAR_ENTRY)
        (dimensions,) = struct.unpack("<i4x", file.read(8))
        if not 0 <= dimensions <= MAX_DIMENSIONS or type(number) is not int or type(storage_number) is not int:
            raise WeightsError("a tar archive, but none of torch.save")
        sizes = struct.unpack(f"<{2 * dimensions + 1}q", file.read(16 * dimensions + 8))
        storage, within = storages[storage_number]
        offset = sizes[-1] + within
        tensors[number] = stored_tensor(storage, offset, sizes[:dimensions], sizes[dimensions:-1])
    return tensors


def _tar_count(file: BinaryIO) -> int:
    count = _next_pickle(file, _nothing, _TAR_ENTRY)
    if type(count) is not int:
        raise WeightsError("a tar archive, but none of torch.save")
    return count


def _nothing(_: Any) -> Any:
    return INERT
