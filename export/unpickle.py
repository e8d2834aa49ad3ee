"""Reading what `torch.save` wrote without running anything in it: tensors and containers, everything else inert.

Both layouts are read: the zip archive (torch >= 1.6) and the older stream of pickles followed by raw storages. A class
or function that the file names is replaced by a stub that can be called, filled and restored, and does nothing.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import sys
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import WeightsError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_PICKLES_BEFORE_STORAGES = 5
_MAX_PICKLE = 256 << 20

_STORAGE_DTYPES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype("<u2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class Inert:
    """Stands for an instance of any class that a checkpoint names; takes everything and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)

    def append(self, item: Any) -> None:
        """Pickle's APPEND."""

    def extend(self, items: Any) -> None:
        """Pickle's APPENDS."""

    def add(self, item: Any) -> None:
        """Pickle's ADDITEMS."""


@dataclass(frozen=True, slots=True)
class _StorageType:
    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    type: str
    size: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor's place in a storage that is read later."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> StoredTensor | Inert:
    integers = (offset, *shape, *stride) if isinstance(shape, tuple) and isinstance(stride, tuple) else (None,)
    if not isinstance(storage, _Storage) or any(type(n) is not int or n < 0 for n in integers):
        return Inert()
    return StoredTensor(storage, offset, shape, stride)


def _rebuild_parameter(data: Any, *rest: Any) -> Any:
    return data


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module in ("torch", "torch.storage") and name in _STORAGE_DTYPES:
            return _StorageType(name)
        return type("Inert", (Inert,), {})

    def persistent_load(self, pid: Any) -> Any:
        # The older layout wraps a class together with its source text.
        if isinstance(pid, tuple) and len(pid) >= 2 and pid[0] == "module" and isinstance(pid[1], type):
            return pid[1]
        if isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage":
            kind, key, size = pid[1], pid[2], pid[4]
            view = pid[5] if len(pid) > 5 else None
            if isinstance(kind, _StorageType) and isinstance(key, str) and type(size) is int and view is None:
                return self.storages.setdefault(key, _Storage(key, kind.name, size))
        return Inert()


def _load_pickle(data: bytes) -> tuple[Any, dict[str, _Storage]]:
    """One pickle and the storages it refers to; a huge memo index, for which a table would be allocated, is refused."""
    for opcode, argument, _ in pickletools.genops(data):
        if "PUT" in opcode.name and isinstance(argument, int) and argument > len(data):
            raise pickle.UnpicklingError(f"memo index {argument}")
    unpickler = _Unpickler(data)
    return unpickler.load(), unpickler.storages


def load_checkpoint(path: Path) -> tuple[Any, dict[str, NDArray[Any]]]:
    """What a checkpoint holds.

    Returns:
        The object structure, tensors as `StoredTensor`, and the storages by key.

    Raises:
        WeightsError: the file is missing, truncated or foreign; one line says what was found.
    """
    if not path.is_file():
        raise WeightsError(f"no such checkpoint: {path}")
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
        if start == b"PK\x03\x04":
            return _load_zip(path)
        return _load_legacy(path)
    except WeightsError:
        raise
    except MemoryError:
        raise WeightsError(f"{path} declares more data than this machine can hold") from None
    except Exception as error:
        found = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise WeightsError(
            f"{path} is not a whole checkpoint of torch.save ({found}): expected a .pth.tar or .pth file; "
            "download it again"
        ) from None


def _load_zip(path: Path) -> tuple[Any, dict[str, NDArray[Any]]]:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise WeightsError(f"{path} is a zip archive without a torch checkpoint's data.pkl")
        prefix = pickles[0].removesuffix("data.pkl")
        if entries[pickles[0]].file_size > _MAX_PICKLE:
            raise WeightsError(f"{path} holds a pickle of {entries[pickles[0]].file_size} bytes: not a checkpoint")
        order = archive.read(prefix + "byteorder").strip() if prefix + "byteorder" in entries else b"little"
        if order != b"little":
            raise WeightsError(f"{path} was written on a machine of {order.decode('ascii', 'replace')} byte order")
        content, declared = _load_pickle(archive.read(pickles[0]))
        storages: dict[str, NDArray[Any]] = {}
        for storage in declared.values():
            name = f"{prefix}data/{storage.key}"
            dtype = _STORAGE_DTYPES[storage.type]
            if name not in entries or entries[name].file_size != storage.size * dtype.itemsize:
                raise WeightsError(f"{path} is truncated: storage {storage.key} should have {storage.size} elements")
            # torch stores without compression; what is compressed could be a bomb.
            if entries[name].compress_type != zipfile.ZIP_STORED:
                raise WeightsError(f"{path} holds compressed storages, which torch.save does not write")
            storages[storage.key] = np.frombuffer(archive.read(name), dtype)
        return content, storages


def _load_legacy(path: Path) -> tuple[Any, dict[str, NDArray[Any]]]:
    data = path.read_bytes()
    position, pickles = 0, []
    declared: dict[str, _Storage] = {}
    for _ in range(_PICKLES_BEFORE_STORAGES):
        length = _pickle_length(data, position)
        value, storages_of_value = _load_pickle(data[position : position + length])
        pickles.append(value)
        declared.update(storages_of_value)
        position += length
        if pickles[0] != _LEGACY_MAGIC:
            raise WeightsError(f"{path} is not a torch checkpoint: its first bytes are {data[:8].hex(' ')}")
    _, protocol, _, content, keys = pickles
    if protocol != _LEGACY_PROTOCOL or not isinstance(keys, list):
        raise WeightsError(f"{path} has checkpoint protocol {protocol!r}, expected {_LEGACY_PROTOCOL}")
    storages: dict[str, NDArray[Any]] = {}
    for key in keys:
        if key not in declared:
            raise WeightsError(f"{path} lists a storage {key!r:.40} that no tensor uses: it cannot be read past it")
        dtype = _STORAGE_DTYPES[declared[key].type]
        if position + 8 > len(data):
            raise WeightsError(f"{path} is truncated: {len(storages)} of {len(keys)} storages are there")
        (count,) = struct.unpack_from("<q", data, position)
        position += 8
        if count != declared[key].size or position + count * dtype.itemsize > len(data):
            raise WeightsError(f"{path} is truncated: {len(storages)} of {len(keys)} storages are there")
        storages[key] = np.frombuffer(data, dtype, count, position)
        position += count * dtype.itemsize
    return content, storages


def _pickle_length(data: bytes, position: int) -> int:
    stream = io.BytesIO(memoryview(data)[position : position + _MAX_PICKLE])
    for opcode, _, _ in pickletools.genops(stream):
        if opcode.name == "STOP":
            break
    return stream.tell()


def to_array(tensor: StoredTensor, storages: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """The tensor's values, contiguous; bfloat16 becomes fp32.

    Raises:
        WeightsError: it reaches beyond its storage.
    """
    storage = storages[tensor.storage.key]
    if len(tensor.shape) != len(tensor.stride) or len(tensor.shape) > 32:
        raise WeightsError(f"a tensor has shape {tensor.shape} and strides {tensor.stride}")
    empty = 0 in tensor.shape
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True))
    if (not empty and last >= storage.size) or max(
        (*tensor.shape, *tensor.stride, last), default=0
    ) > sys.maxsize // 16:
        raise WeightsError(f"a tensor of shape {tensor.shape} reaches beyond its storage of {storage.size} elements")
    if empty:
        return np.zeros(tensor.shape, storage.dtype)
    if np.prod([float(n) for n in tensor.shape]) > storage.size:
        raise WeightsError(f"a tensor of shape {tensor.shape} repeats a storage of {storage.size} elements")
    strides = [s * storage.itemsize for s in tensor.stride]
    view = np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides, writeable=False)
    values = np.ascontiguousarray(view)
    if tensor.storage.type == "BFloat16Storage":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values
