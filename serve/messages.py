"""What goes over the WebSocket.

The client's first message is text, an `Open` as JSON; the answer is text, `{"kind": "opened", ...}`. Then it sends
frames as binary messages:

    length of the header, uint32 little-endian | header, JSON | mask, PNG, of `mask` bytes | frame, JPEG or raw RGB

and receives, in their order, label maps as binary messages of the same kind: a header and a grey PNG whose values are
the ids; or, for `"labels": "rle"`, a header alone that holds COCO's run lengths. The text `end` asks for what is still
waiting and a last text, `{"kind": "ended", ...}`. What goes wrong is told by `{"kind": "error", "text": ...}` before
the server hangs up.
"""

from __future__ import annotations

import io
import json
import struct
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..annotations import to_rle
from ..errors import MaskError, SettingsError, VideoError
from ..runtime.settings import Options

HEADER_BYTES = 1 << 14
Message = TypeVar("Message", bound=BaseModel)


class Open(BaseModel):
    """A session's first message.

    Attributes:
        bundle: one of the server's; None for its first.
        behind: K, frames that may wait.
        full: of a frame that comes while K wait: whether the oldest is dropped, or the client waits.
        labels: what a label map is sent as.
        memory, interval, branches, score_resize, min_area, windows, share: see `Segmenter.load`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    bundle: str | None = None
    behind: int = Field(default=4, ge=1)
    full: Literal["drop", "wait"] = "drop"
    labels: Literal["png", "rle"] = "png"
    memory: int | None = None
    interval: int | None = None
    branches: str | None = None
    score_resize: str | None = None
    min_area: float | None = None
    windows: str | None = None
    share: str | None = None

    def chosen(self) -> dict[str, Any]:
        """Options that the client chose, by name."""
        given = self.model_dump(exclude={"bundle", "behind", "full", "labels"}, exclude_none=True)
        assert given.keys() <= Options.__dataclass_fields__.keys()
        return given


class Header(BaseModel):
    """Of a frame.

    Attributes:
        id: rises from frame to frame.
        form: a JPEG, as it is stored; or (H, W, 3) uint8 RGB.
        size: (H, W) of a raw frame.
        mask: bytes of the PNG before the frame; 0 for none.
        correct: see `Segmenter.step`.
        remove: objects to forget before the frame.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: int = Field(ge=0, lt=1 << 53)
    form: Literal["jpeg", "raw"] = "jpeg"
    size: tuple[int, int] | None = None
    mask: int = Field(0, ge=0)
    correct: bool = False
    remove: tuple[int, ...] = ()


def read_open(text: str | None) -> Open:
    """The first message.

    Raises:
        SettingsError: it is none.
    """
    if text is None:
        raise SettingsError("the first message is binary: expected text, JSON that opens a session")
    return _validated(Open, text)


def read_frame(message: bytes) -> tuple[Header, memoryview]:
    """A frame's header, and the bytes of its mask and image.

    Raises:
        SettingsError: the message is malformed.
    """
    (length,) = struct.unpack_from("<I", message) if len(message) >= 4 else (0,)
    if not 0 < length <= min(HEADER_BYTES, len(message) - 4):
        raise SettingsError("the message is no frame: expected a header's length, its JSON, a mask and an image")
    header = _validated(Header, message[4 : 4 + length])
    body = memoryview(message)[4 + length :]
    if header.mask >= len(body):
        raise SettingsError(f"frame {header.id} has {len(body)} bytes: expected a mask of {header.mask} and an image")
    return header, body


def _validated(kind: type[Message], text: str | bytes) -> Message:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise SettingsError(f"the message is malformed: {place[:80]}: {first['msg']}") from None


def decode_frame(header: Header, body: memoryview, most: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """A frame (H, W, 3) uint8 RGB of at most so many pixels, and its mask (H, W) uint8 if there is one.

    Raises:
        MaskError, SettingsError, VideoError: what was sent is something else.
    """
    image = body[header.mask :]
    if header.form == "raw":
        height, width = header.size or (0, 0)
        _check_size(height, width, most)
        if len(image) != 3 * height * width:
            raise VideoError(f"a raw frame has {len(image)} bytes: expected 3 x {width} x {height}")
        frame = np.frombuffer(image, np.uint8).reshape(height, width, 3)
    else:
        try:
            with Image.open(io.BytesIO(image), formats=["JPEG"]) as opened:
                _check_size(opened.height, opened.width, most)
                frame = np.array(opened.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            raise VideoError(f"frame {header.id} cannot be read as a JPEG: expected one, or a raw frame") from None
    return frame, _decode_mask(body[: header.mask], header.id, most) if header.mask else None


def _check_size(height: int, width: int, most: int) -> None:
    if height < 1 or width < 1 or height * width > most:
        raise SettingsError(f"a frame is {width}x{height}: expected at least one pixel and at most {most}")


def _decode_mask(data: memoryview, number: int, most: int) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
            if opened.mode not in ("L", "P"):
                raise MaskError(f"the mask of frame {number} is {opened.mode}: expected a palette or 8-bit grey PNG")
            _check_size(opened.height, opened.width, most)
            return np.array(opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise MaskError(f"the mask of frame {number} cannot be read: expected a palette or 8-bit grey PNG") from None


def label_message(header: dict[str, Any], labels: NDArray[np.uint8], form: Literal["png", "rle"]) -> bytes:
    """A label map (H, W) with its header."""
    if form == "rle":
        return pack({**header, "size": list(labels.shape), "runs": {str(i): c for i, c in to_rle(labels).items()}})
    return pack(header, cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())


def pack(header: dict[str, Any], *parts: bytes) -> bytes:
    """A binary message of either side."""
    text = json.dumps(header).encode()
    return b"".join((struct.pack("<I", len(text)), text, *parts))
