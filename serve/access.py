"""Who may open a stream."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from starlette.requests import HTTPConnection

from ..studio.server.access import Access, is_loopback, names_loopback


@dataclass(frozen=True, slots=True)
class StreamAccess(Access):
    """The check of every request for streams, which programs make, and pages that are allowed.

    Attributes:
        token: in `Authorization: Bearer` or `?token=`; empty for none.
        loopback: whether the server listens there only: the Host header must then say so.
        origins: pages that may open streams, as `https://host`; others may not. Programs send no Origin.
    """

    loopback: bool = True
    origins: tuple[str, ...] = ()

    def refusal(self, connection: HTTPConnection) -> str | None:
        """Why a request is refused; None if it is not, as that for `/healthz`, which tells nothing of streams."""
        if connection.scope["path"] == "/healthz":
            return None
        if self.loopback and not names_loopback(connection):
            return "the Host header names no loopback address"
        origin = connection.headers.get("origin")
        if origin is not None and origin not in self.origins:
            return "the request comes from a page that is not allowed: start the server with --origin"
        if self.token and not self.holds_token(connection):
            return "the token is missing or wrong: send it as Authorization: Bearer, or as ?token="
        return None


def access_for(host: str, token: str | None, origins: tuple[str, ...]) -> StreamAccess:
    """The check where a server listens on `host`; a token is made where there is none and others can come."""
    loopback = is_loopback(host)
    return StreamAccess(token or ("" if loopback else secrets.token_urlsafe(24)), loopback, origins)
