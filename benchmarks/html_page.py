"""The pages, made of the templates in `pages`: one file, no script, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("pages")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """A template's page; whatever text is put in is escaped."""
    return _TEMPLATES.get_template(template).render(values)


def data_address(content: bytes, kind: str) -> str:
    """An encoded picture, "jpeg" or "png", as the address of itself."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
