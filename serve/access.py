"""Who may open a stream."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from ..errors import SettingsError
from ..studio.access import Access, check_loopback


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        check_loopback(host)
    except SettingsError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class StreamAccess(Access):
    """The check of every request for streams, which programs make, and pages that are allowed.

    Attributes:
        token: in `Authorization: Bearer` or `?token=`; empty for none.
        loopback: whether the server listens there only: the Host header must then say so, which a page that another
            name was bound to does not.
        origins: pages that may open streams, as `https://host`; others may not. Programs send no Origin.
    """

    loopback: bool = True
    origins: tuple[str, ...] = ()

    def refusal(self, connection: HTTPConnection) -> str | None:
        """Why a request is refused; None if it is not, as that for `/healthz`, which tells nothing of streams."""
        if connection.scope["path"] == "/healthz":
            return None
        host = connection.headers.get("host", "")
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        if self.loopback and not is_loopback(name):
            return "the Host header names no loopback address"
        origin = connection.headers.get("origin")
        if origin is not None and origin not in self.origins:
            return "the request comes from a page that is not allowed: start the server with --origin"
        if self.token and not any(hmac.compare_digest(t.encode(), self.token.encode()) for t in _tokens(connection)):
            return "the token is missing or wrong: send it as Authorization: Bearer, or as ?token="
        return None


def _tokens(connection: HTTPConnection) -> list[str]:
    bearer = connection.headers.get("authorization", "").removeprefix("Bearer ")
    return [connection.query_params.get("token", ""), bearer]
