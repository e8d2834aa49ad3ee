"""Where clips come from and results go: paths, and URLs through fsspec."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import DependencyError, JointError, SettingsError

CONNECT_SECONDS, SILENT_SECONDS = 15.0, 30.0
"""How long a web server's answer is waited for, and then for the next of its bytes; however long a film takes."""


def open_store(url: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path in it.

    Raises:
        DependencyError: the library that knows its kind is not installed.
        SettingsError: there is no such kind.
    """
    import fsspec

    options: dict[str, Any] = {}
    if is_web(url):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
        options["client_kwargs"] = {"timeout": timeout}
    try:
        files, path = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        raise DependencyError(f"{url} needs a library that is not installed: {error}") from None
    except ValueError as error:
        raise SettingsError(f"{url}: {error}: expected a path, s3://, gs://, http:// or https://") from None
    return files, str(path)


def is_web(url: str) -> bool:
    """Whether a web server has it, which can be read only."""
    return url.startswith(("http://", "https://"))


@contextmanager
def told_of(url: str, wrong: str, kind: type[JointError]) -> Iterator[None]:
    """Whatever goes wrong in the block is one error: "URL cannot be ...: why"; the stores' libraries share no class."""
    try:
        yield
    except (JointError, ImportError):
        raise
    except Exception as error:
        raise kind(f"{url} {wrong}: {reason(error)}") from None


def reason(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, FileNotFoundError):
        # A web server that does not answer is none that lacks the file.
        return reason(error.__cause__) if isinstance(error.__cause__, OSError) else "it is not there"
    if isinstance(error, TimeoutError):
        return f"nothing came for {SILENT_SECONDS:g} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
