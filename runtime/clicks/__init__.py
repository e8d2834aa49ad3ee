"""First masks and corrections by clicks."""

from .prompts import Box, Click
from .segmenter import ClickSegmenter

__all__ = ["Box", "Click", "ClickSegmenter"]
