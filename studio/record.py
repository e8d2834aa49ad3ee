"""The project file: objects, choices, what was given and what was found."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from ..runtime.manifest import Windows
from ..runtime.settings import Share
from ..runtime.video.masks import MAX_OBJECTS


class Object(BaseModel):
    """An object, as a person sees it."""

    model_config = ConfigDict(extra="forbid")
    id: int = Field(ge=1, le=MAX_OBJECTS)
    name: str = Field(max_length=80)
    colour: str = Field(pattern=r"^#[0-9a-f]{6}$")


class Choices(BaseModel):
    """How masks are computed; see `Segmenter.load`."""

    model_config = ConfigDict(extra="forbid")
    bundle: str = Field(default="lite-int8", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    memory: int | None = Field(default=None, ge=1, le=1000)
    interval: int | None = Field(default=None, ge=1, le=1000)
    windows: Windows | None = None
    share: Share = "exact"


class Seen(BaseModel):
    """An object in one frame: pixels, and the network's mean probability there."""

    area: int
    sure: float


class Record(BaseModel):
    """The project file.

    Attributes:
        gone: ids of removed objects that undoing may bring back; new objects get others.
    """

    model_config = ConfigDict(extra="forbid")
    version: int = 1
    fingerprint: str
    frame: int = 0
    objects: list[Object] = []
    gone: list[int] = []
    choices: Choices = Choices()
    given: dict[int, list[int]] = {}
    seen: dict[int, dict[int, Seen]] = {}
