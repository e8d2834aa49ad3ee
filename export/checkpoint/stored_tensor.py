"""Tensors as `torch.save` describes them: a place in a storage, read later, and only if it is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import WeightsError
from .unpickle import INERT, Builders, Global, Inert

MAX_DIMENSIONS = 32

DTYPES: dict[str, np.dtype[Any]] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype("<u2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
}
"""Storage classes of torch, wherever they lived (`torch`, `torch.cuda`), and how they lie in a file."""

FLOATING = ("DoubleStorage", "FloatStorage", "HalfStorage", "BFloat16Storage")


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage of `count` elements; `kind` is a key of `DTYPES`."""

    key: str
    kind: str
    count: int

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return self.count * DTYPES[self.kind].itemsize


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A view of a storage that `stored_tensor` has found to lie within it; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def floating(self) -> bool:
        """Whether its values are real floating-point numbers."""
        return self.storage.kind in FLOATING

    def view(self, values: NDArray[Any]) -> NDArray[Any]:
        """The tensor, contiguous, from all `storage.count` values of its storage; bfloat16 becomes fp32."""
        if 0 in self.shape:
            array = np.zeros(self.shape, values.dtype)
        else:
            strides = [step * values.itemsize for step in self.stride]
            within = np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides, writeable=False)
            array = np.asarray(within, order="C")
        if self.storage.kind == "BFloat16Storage":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array


def storage_kind(named: Any) -> str | None:
    """The key of `DTYPES` of a class that a pickle names; None for another class."""
    if isinstance(named, Global) and named.module in ("torch", "torch.storage", "torch.cuda") and named.name in DTYPES:
        return named.name
    return None


def stored_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor | Inert:
    """What `torch._utils._rebuild_tensor_v2` would rebuild; inert where the storage is of no known kind.

    Raises:
        WeightsError: the tensor does not lie within its storage.
    """
    if not isinstance(storage, Storage):
        return INERT
    numbers = (offset, *shape, *stride) if _short(shape) and _short(stride) else (-1,)
    if any(type(n) is not int or not 0 <= n < 1 << 48 for n in numbers) or len(shape) != len(stride):
        raise WeightsError("a tensor's shape and strides are no lists of sizes")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if 0 not in shape and last >= storage.count:
        raise WeightsError(f"a tensor of shape {shape} reaches beyond its storage of {storage.count} elements")
    return StoredTensor(storage, offset, shape, stride)


def _short(sizes: Any) -> bool:
    return isinstance(sizes, tuple) and len(sizes) <= MAX_DIMENSIONS


def _parameter(data: Any = INERT, *_: Any) -> Any:
    return data


BUILDERS: Builders = {
    ("torch._utils", "_rebuild_tensor"): stored_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): stored_tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch.nn.parameter", "Parameter"): _parameter,
}
