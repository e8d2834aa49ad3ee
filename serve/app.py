"""The application: `/stream`, a WebSocket; `/healthz` and `/metrics`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from ..runtime.bundle import Bundle
from ..studio.server.access import Guard
from .access import StreamAccess
from .limits import Limits
from .metrics import Metrics
from .pool import SegmenterPool
from .stream import Stream

BUSY = 1013
"""WebSocket close code for "try again later"."""


def router(limits: Limits, metrics: Metrics, threads: ThreadPoolExecutor) -> APIRouter:
    """The routes, to be included in an application that guards them."""
    routes = APIRouter()
    pool = SegmenterPool(limits)
    streams: set[Stream] = set()

    @routes.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        if len(streams) >= limits.sessions:
            metrics.refused.inc()
            await socket.send_json({"kind": "error", "text": f"all {limits.sessions} sessions are taken: come later"})
            await socket.close(BUSY)
            return
        session = Stream(socket, limits, pool, metrics, threads)
        streams.add(session)
        metrics.sessions.inc()
        try:
            await session.run()
        finally:
            metrics.sessions.dec()
            streams.discard(session)

    @routes.get("/healthz")
    async def healthz() -> dict[str, int | str]:
        return {"status": "ok", "sessions": len(streams), "of": limits.sessions}

    @routes.get("/metrics")
    async def figures() -> Response:
        return PlainTextResponse(metrics.page(), media_type=CONTENT_TYPE_LATEST)

    return routes


def create_app(limits: Limits, access: StreamAccess) -> FastAPI:
    """The application of `jointrt serve`.

    Raises:
        JointError: a bundle cannot be opened, or an option is out of its range.
    """
    for bundle in limits.bundles:
        limits.options.settings(Bundle.open(bundle).manifest.defaults)
    threads = ThreadPoolExecutor(limits.sessions, "stream")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        threads.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(title="jointrt serve", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.include_router(router(limits, Metrics(), threads))
    app.add_middleware(Guard, access=access)
    return app
