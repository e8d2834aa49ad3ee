"""What the pages have in common: one file, no script, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape


def document(title: str, body: str) -> str:
    """A whole page about a body of HTML, its title as the heading."""
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n<h1>{escape(title)}</h1>\n{body}</html>\n"
    )


def fact_list(facts: Mapping[str, str]) -> str:
    """Names and values."""
    items = "".join(f"<dt>{escape(name)}<dd>{escape(value)}" for name, value in facts.items())
    return f"<dl>{items}</dl>\n"


def picture(content: bytes, kind: str, description: str, caption: str) -> str:
    """A figure with its picture inside.

    Args:
        content: the encoded picture.
        kind: jpeg or png.
        description: said instead where it cannot be seen.
        caption: stands below.
    """
    data = base64.b64encode(content).decode("ascii")
    return (
        f'<figure><img alt="{escape(description)}" src="data:image/{kind};base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1500px; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left }
.mean { font-weight: bold }
dl { display: grid; grid-template-columns: max-content auto; gap: 0 1rem } dd { margin: 0 }
.frames { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 1rem }
figure { margin: 0 } img { width: 100%; display: block } figcaption { font-size: .85em }
"""
