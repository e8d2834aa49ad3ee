"""Who may use a server on loopback: a token in the link, and requests from its own page only."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE = "jointrt-token"
POLICY = 4403
"""WebSocket close code for a connection that is refused."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_loopback(connection: HTTPConnection) -> bool:
    """Whether the Host header does, which that of a page does not to which another name was bound."""
    try:
        return is_loopback(urlsplit(f"//{connection.headers.get('host', '')}").hostname or "")
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Access:
    """The check of every request.

    Attributes:
        token: what the link holds as `?token=`; a cookie or `Authorization: Bearer` does as well.
    """

    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    def link(self, host: str, port: int) -> str:
        """What the user opens."""
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={self.token}"

    def refusal(self, connection: HTTPConnection) -> str | None:
        """Why a request is refused; None if it is not."""
        if not names_loopback(connection):
            return "the Host header names no loopback address: open the link that the server printed"
        origin = connection.headers.get("origin")
        if origin is not None and origin != f"http://{connection.headers['host']}":
            return "the request comes from another page: open the link that the server printed"
        if not self.holds_token(connection):
            return "the token is missing or wrong: open the link that the server printed"
        return None

    def holds_token(self, connection: HTTPConnection) -> bool:
        """Whether a request has the token in its link, its cookie or its header."""
        port = urlsplit(f"//{connection.headers.get('host', '')}").port or 80
        given = (
            connection.query_params.get("token", ""),
            connection.cookies.get(f"{COOKIE}-{port}", ""),
            connection.headers.get("authorization", "").removeprefix("Bearer "),
        )
        return any(hmac.compare_digest(token.encode(), self.token.encode()) for token in given)


class Guard:
    """ASGI middleware that lets through what `Access` allows, and gives a page its cookie."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        refusal = self.access.refusal(connection)
        if refusal is None:
            await self.app(scope, receive, self._with_cookie(connection, send))
        elif scope["type"] == "http":
            await PlainTextResponse(f"{refusal}\n", status_code=403)(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": POLICY, "reason": refusal})

    def _with_cookie(self, connection: HTTPConnection, send: Send) -> Send:
        if connection.scope["type"] != "http" or connection.query_params.get("token") is None:
            return send
        port = (urlsplit(f"//{connection.headers['host']}").port) or 80
        cookie = f"{COOKIE}-{port}={self.access.token}; HttpOnly; SameSite=Strict; Path=/"

        async def sending(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", []), (b"set-cookie", cookie.encode())]  # type: ignore[misc]
                message = {**message, "headers": [*headers, (b"referrer-policy", b"no-referrer")]}
            await send(message)

        return sending  # type: ignore[return-value]
