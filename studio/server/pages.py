"""The session, and the pages that look at it over their WebSockets."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from ...errors import JointError, SettingsError
from ...runtime.bundle import ENGINES
from ...runtime.video.sources import IMAGE_SUFFIXES, open_source
from ..project import Labels, as_runs
from ..session import Session
from .actions import act
from .uploads import VIDEO_SUFFIXES, bring, read_record

PROJECTS = ".jointrt-studio"
"""Folder of the projects, under the folder that the studio was started with."""


class Studio:
    """The session, and the pages that look at it; the first page works, others are told."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.session: Session | None = None
        self._pages: dict[WebSocket, asyncio.Queue[dict[str, Any] | bytes]] = {}
        self._holder: WebSocket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def under(self, name: str) -> Path:
        """A path under the root.

        Raises:
            SettingsError: it is not, or nothing is there.
        """
        refused = SettingsError(f"{name[:200]!r} is no film in the folder that the studio was started with")
        try:
            path = (self.root / name).resolve()
            inside = path.is_relative_to(self.root) and path.exists()
        except (OSError, ValueError):
            raise refused from None
        if not inside:
            raise refused
        if path.is_dir():
            for image in path.iterdir():
                if image.is_symlink() and not image.resolve().is_relative_to(self.root):
                    raise SettingsError(f"{name}/{image.name} leads out of the folder that the studio was started with")
        return path

    def projects(self, *names: str) -> Path:
        """A path in the folder of the projects, which is no link."""
        if (self.root / PROJECTS).is_symlink():
            raise SettingsError(f"{PROJECTS} is a link: expected a folder, or nothing")
        return self.root.joinpath(PROJECTS, *names)

    def folder(self, path: Path) -> Path:
        """The project's folder of a film under the root."""
        return self.projects(path.relative_to(self.root).as_posix().replace("/", "__"))

    def open(self, name: str) -> None:
        """Open a film under the root; the one before is saved and closed.

        Raises:
            JointError: it cannot be opened.
        """
        path = self.under(name)
        if self.session is not None and self.session.path == path:
            return
        name = path.relative_to(self.root).as_posix()
        session = Session(path, name, self.folder(path), self.projects(".frames"), self.tell, self.show)
        if self.session is not None:
            self.session.close()
        self.session = session

    def bring(self, name: str) -> None:
        """Open a project file that was uploaded, with its film, which must lie under the root.

        Raises:
            JointError: it is no project file, or its film is not there.
        """
        archive = self.projects("incoming", Path(name).name)
        try:
            record = read_record(archive)
            path = self._film_of(record.fingerprint)
            size = open_source(path).size[::-1]
            if self.session is not None and self.session.path == path:
                self.session.close()
                self.session = None
            bring(archive, self.folder(path), (size[0], size[1]))
        finally:
            archive.unlink(missing_ok=True)
        self.open(path.relative_to(self.root).as_posix())

    def _film_of(self, fingerprint: str) -> Path:
        names = self.files()
        if self.session is not None:
            names.insert(0, self.session.name)
        for name in names:
            try:
                path = self.under(name)
                if open_source(path).fingerprint() == fingerprint:
                    return path
            except JointError:
                continue
        raise SettingsError(f"the project's film is not in {self.root}: copy or upload it there first")

    def working(self) -> Session:
        """The session.

        Raises:
            SettingsError: no film is open.
        """
        if self.session is None:
            raise SettingsError("no film is open: open one first")
        return self.session

    def files(self) -> list[str]:
        """Films and folders of images under the root, two levels deep."""
        found = []
        for pattern in ("*", "*/*"):
            for path in sorted(self.root.glob(pattern)):
                name = path.relative_to(self.root)
                if any(part.startswith(".") for part in name.parts) or not path.resolve().is_relative_to(self.root):
                    continue
                if path.suffix.lower() in VIDEO_SUFFIXES or _has_images(path):
                    found.append(name.as_posix())
        return found[:1000]

    def tell(self, message: dict[str, Any] | bytes) -> None:
        """Send to all pages, from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue, message)

    def _queue(self, message: dict[str, Any] | bytes) -> None:
        for page in self._pages.values():
            page.put_nowait(message)

    def show(self, frame: int, labels: Labels) -> None:
        """Send a frame's masks, as runs, to all pages."""
        self.tell(struct.pack("<I", frame) + as_runs(labels))

    async def serve(self, page: WebSocket) -> None:
        """Talk to one page until it is closed."""
        self._loop = asyncio.get_running_loop()
        await page.accept()
        self._pages[page] = asyncio.Queue()
        if self._holder is None:
            self._holder = page
        sender = asyncio.create_task(self._send(page))
        self._roles()
        self._pages[page].put_nowait(self.hello())
        try:
            while True:
                await self._receive(page, await page.receive_json())
        except (WebSocketDisconnect, ValueError, RuntimeError):
            pass
        finally:
            sender.cancel()
            del self._pages[page]
            if self._holder is page:
                self._holder = next(iter(self._pages), None)
            self._roles()

    def hello(self) -> dict[str, Any]:
        """What a page must know to begin."""
        bundles = sorted(p.parent.name for p in ENGINES.glob("*/manifest.json") if p.parent.name != "clicks")
        message: dict[str, Any] = {"kind": "hello", "files": self.files(), "bundles": bundles, "film": None}
        if self.session is not None:
            source = self.session.frames.source
            message["film"] = {
                "name": self.session.name,
                "size": self.session.frames.size,
                "count": self.session.frames.count,
                "rate": float(source.rate),
                "tracking": self.session.tracking,
                "project": self.session.project.describe(),
            }
        return message

    def _roles(self) -> None:
        for page, messages in self._pages.items():
            messages.put_nowait({"kind": "role", "works": page is self._holder, "pages": len(self._pages)})

    async def _send(self, page: WebSocket) -> None:
        messages = self._pages[page]
        while True:
            message = await messages.get()
            if isinstance(message, bytes):
                await page.send_bytes(message)
            else:
                await page.send_json(message)

    async def _receive(self, page: WebSocket, message: Any) -> None:
        try:
            if not isinstance(message, dict):
                raise SettingsError("a message is no object")
            if message.get("kind") == "take":
                self._holder = page
                self._roles()
                return
            if page is not self._holder:
                raise SettingsError("another page works on this film: press take over first")
            if message.get("kind") == "open":
                await asyncio.to_thread(self.open, str(message["name"]))
                self.tell(self.hello())
            elif message.get("kind") == "bring":
                await asyncio.to_thread(self.bring, str(message["name"]))
                self.tell(self.hello())
            else:
                act(self.working(), message, self.tell)
        except JointError as error:
            self._pages[page].put_nowait({"kind": "error", "text": str(error)})
        except ValidationError as error:
            wrong = error.errors()[0]
            field, found = ".".join(map(str, wrong["loc"])), str(wrong["input"])[:80]
            self._pages[page].put_nowait({"kind": "error", "text": f"{field} is {found}: {wrong['msg'].lower()}"})
        except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
            self._pages[page].put_nowait({"kind": "error", "text": f"a message is malformed: {type(error).__name__}"})


def _has_images(path: Path) -> bool:
    try:
        return path.is_dir() and any(p.suffix.lower() in IMAGE_SUFFIXES for p in path.iterdir())
    except OSError:
        return False
