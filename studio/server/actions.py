"""What a page may ask of a session, by the message's kind."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import SettingsError
from ...runtime.clicks.prompts import Click
from ..exports import Kind, Stopped, count_of, export
from ..record import Choices
from ..session import Session

Message = dict[str, Any]
Tell = Callable[[Message], None]
_MAX_POINTS = 100_000
_MAX_CLICKS = 200


def act(session: Session, message: Message, tell: Tell) -> None:
    """Do what a page asks.

    Args:
        session: the film.
        message: its "kind" is one of `_ACTIONS`; "frame" counts from 0.
        tell: sends to all pages.

    Raises:
        JointError: it cannot be done.
        KeyError, TypeError, ValueError, OverflowError, IndexError: the message is malformed.
    """
    frame = int(message.get("frame", 0))
    if not 0 <= frame < session.frames.count:
        raise SettingsError(f"frame is {frame}: expected 0 to {session.frames.count - 1}")
    action = _ACTIONS.get(message["kind"])
    if action is None:
        raise SettingsError(f"a message of kind {str(message['kind'])[:40]!r} is not known")
    action(session, message, frame, tell)


def _click(session: Session, message: Message, frame: int, _: Tell) -> None:
    if len(message["clicks"]) > _MAX_CLICKS:
        raise SettingsError(f"there are {len(message['clicks'])} clicks: expected at most {_MAX_CLICKS}; use the brush")
    clicks = [Click(float(x), float(y), bool(on)) for x, y, on in message["clicks"]]
    box = message.get("box")
    edges = None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
    session.click(frame, int(message["object"]), clicks, edges)


def _paint(session: Session, message: Message, frame: int, _: Tell) -> None:
    if len(message["points"]) > _MAX_POINTS:
        raise SettingsError(f"the stroke has {len(message['points'])} points: expected at most {_MAX_POINTS}")
    points = np.array(message["points"], np.float32).reshape(-1, 2)
    if not len(points) or not np.isfinite(points).all() or np.abs(points).max() > 1e5:
        raise SettingsError("the stroke has no points, or they lie far outside of the picture")
    width = min(max(float(message.get("width", 1)), 1.0), 2000.0)
    session.paint(frame, int(message["object"]), points, width, str(message["mode"]))


def _contour(session: Session, message: Message, frame: int, _: Tell) -> None:
    width, height = session.frames.size
    start, end = (
        (min(max(int(x), 0), width - 1), min(max(int(y), 0), height - 1)) for x, y in (message["start"], message["end"])
    )
    session.contour(frame, int(message["leg"]), start, end)


def _undo(session: Session, message: Message, _frame: int, _: Tell) -> None:
    session.undo(again=message["kind"] == "redo")


def _track(session: Session, message: Message, frame: int, _: Tell) -> None:
    count = message.get("count")
    session.track(frame, backwards=bool(message.get("backwards")), count=None if count is None else int(count))


def _stop(session: Session, _message: Message, _frame: int, _: Tell) -> None:
    session.stop()


def _remove(session: Session, message: Message, _frame: int, _: Tell) -> None:
    session.remove(int(message["object"]))


def _choose(session: Session, message: Message, _frame: int, tell: Tell) -> None:
    session.choose(Choices.model_validate({**session.project.record.choices.model_dump(), **message["choices"]}))
    tell({"kind": "project", **session.project.describe()})


def _add(session: Session, _message: Message, _frame: int, tell: Tell) -> None:
    item = session.project.add()
    tell({"kind": "project", **session.project.describe(), "made": item.id})


def _rename(session: Session, message: Message, _frame: int, tell: Tell) -> None:
    session.project.rename(int(message["object"]), str(message["name"]), str(message["colour"]))
    tell({"kind": "project", **session.project.describe()})


def _at(session: Session, _message: Message, frame: int, _: Tell) -> None:
    session.look(frame)


def _export(session: Session, message: Message, _frame: int, tell: Tell) -> None:
    kind = Kind(message["what"])
    session.begin()
    begun = time.monotonic()
    count = count_of(kind, session.frames, session.project)

    def advance(done: int) -> bool:
        if done % 5 == 0:
            rate = done / max(time.monotonic() - begun, 1e-6)
            left = (count - done) / rate
            tell({"kind": "saving", "what": kind.value, "done": done, "count": count, "fps": rate, "left": left})
        return not session.stopping

    def job() -> None:
        path = None
        try:
            path = str(export(kind, session.frames, session.project, session.project.folder / "exports", advance))
        except Stopped:
            pass
        finally:
            session.tracking = False
            tell({"kind": "saved", "what": kind.value, "path": path})

    session.submit(job)


_ACTIONS: dict[str, Callable[[Session, Message, int, Tell], None]] = {
    "click": _click,
    "paint": _paint,
    "contour": _contour,
    "undo": _undo,
    "redo": _undo,
    "track": _track,
    "stop": _stop,
    "choose": _choose,
    "add": _add,
    "rename": _rename,
    "remove": _remove,
    "at": _at,
    "export": _export,
}
