"""The `jointrt` command: one module a family of commands, which only translate what was typed."""

# In the order in which the help shows them.
# isort: off
from . import segment
from . import clicks
from . import fleet
from . import accuracy
from . import speed
from . import bundles
from . import training
from . import studio
from . import annotations
from . import machine
from .app import app, main
# isort: on

__all__ = [
    "accuracy",
    "annotations",
    "app",
    "bundles",
    "clicks",
    "fleet",
    "machine",
    "main",
    "segment",
    "speed",
    "studio",
    "training",
]
