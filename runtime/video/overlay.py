"""Showing masks: tint and contour on the frames, and a video of them."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

from ...errors import OutputError
from .masks import distinct_colours
from .sources import for_ffmpeg

TINT = 0.5
"""Share of the object's colour inside it."""
ENCODER = "libx264"
X264_OPTIONS = {"preset": "veryfast", "crf": "20", "bf": "0"}
"""Without B-frames the order of decoding is that of showing, and a track with irregular times has its true length."""
BT709 = 1
"""H.273's number of the BT.709 primaries, transfer curve and matrix."""

_COLOURS = distinct_colours()
_TINTS = (TINT * _COLOURS).round().astype(np.uint8)[None]
_CONTOURS = (255 - (255 - _COLOURS) // 2)[None]


def draw_overlay(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy of the frame with every object tinted in its colour and bordered in a lighter one.

    Args:
        image: (H, W, 3) RGB.
        labels: (H, W), 0 for the background.
    """
    canvas = image.copy()
    planes = cv2.merge((labels, labels, labels))
    tinted = cv2.addWeighted(image, 1 - TINT, cv2.LUT(planes, _TINTS), 1, 0)
    cv2.copyTo(tinted, labels, canvas)
    width = max(1, round(min(labels.shape) / 240))
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (2 * width + 1, 2 * width + 1))
    edges = cv2.bitwise_and(cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, kernel), _saturated(labels))
    cv2.copyTo(cv2.LUT(planes, _CONTOURS), edges, canvas)
    return canvas


def _saturated(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """255 inside objects, 0 outside."""
    return np.asarray(cv2.threshold(labels, 0, 255, cv2.THRESH_BINARY)[1], np.uint8)


class OverlayVideo:
    """An H.264 video in MP4 whose frames have the times they are given; it appears whole, under its name, at `close`.

    Odd widths and heights, which 4:2:0 sampling does not have, get one more column or row like their neighbour.
    """

    def __init__(
        self, path: Path, size: tuple[int, int], rate: Fraction, time_base: Fraction, pixel_aspect: Fraction
    ) -> None:
        """Open the video.

        Args:
            path: where it appears.
            size: (height, width) of the frames.
            rate: nominal frames per second.
            time_base: seconds of which all times are whole multiples.
            pixel_aspect: width over height of a pixel.

        Raises:
            OutputError: it cannot be written, or this PyAV has no H.264 encoder.
        """
        if ENCODER not in av.codecs_available:
            raise OutputError(
                f"this PyAV has no {ENCODER} encoder for the overlay: install PyAV's wheel, or give --no-overlay"
            )
        self.path = path
        self.time_base = time_base
        self._part = path.with_name(f".{path.name}.part")
        self._pad = (size[0] % 2, size[1] % 2)
        self._start: Fraction | None = None
        self._last = -1
        self._reformatter = VideoReformatter()
        self._container = _open_mp4(self._part, path)
        self._stream = self._container.add_stream(ENCODER, rate=rate, options=X264_OPTIONS)
        context = self._stream.codec_context
        context.height, context.width = size[0] + self._pad[0], size[1] + self._pad[1]
        context.pix_fmt = "yuv420p"
        context.time_base = time_base
        self._stream.time_base = time_base
        context.sample_aspect_ratio = pixel_aspect
        context.color_range = ColorRange.MPEG
        context.colorspace = context.color_primaries = context.color_trc = BT709
        # Encoding runs beside the inference: more threads would take its cores.
        context.thread_count = 1

    def write(self, image: NDArray[np.uint8], time: Fraction, duration: Fraction) -> None:
        """Add a frame.

        Args:
            image: (H, W, 3) RGB.
            time: seconds; the first frame's becomes the video's zero.
            duration: seconds.

        Raises:
            OutputError: the disk is full, or the encoder failed.
        """
        if self._start is None:
            self._start = time
        if any(self._pad):
            image = np.asarray(
                cv2.copyMakeBorder(image, 0, self._pad[0], 0, self._pad[1], cv2.BORDER_REPLICATE), np.uint8
            )
        frame = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(image, format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
        # A muxer needs times that grow; damaged files repeat some.
        self._last = max(round((time - self._start) / self.time_base), self._last + 1)
        frame.pts, frame.time_base = self._last, self.time_base
        frame.duration = max(1, round(duration / self.time_base))
        self._mux(frame)

    def close(self) -> None:
        """Finish the file and give it its name; where that fails, nothing is left of it.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            self._mux(None)
            self._container.close()
            self._part.replace(self.path)
        except OSError as error:
            self._discard()
            raise OutputError(f"{self.path} cannot be written: {error.strerror or error}") from None
        except OutputError:
            self._discard()
            raise

    def _discard(self) -> None:
        for step in (self._container.close, self._part.unlink):
            with contextlib.suppress(OSError):
                step()

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except (av.error.FFmpegError, OSError) as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror or error}") from None


def _open_mp4(part: Path, path: Path) -> Any:
    try:
        return av.open(for_ffmpeg(part, "wb"), "w", format="mp4", options={"movflags": "faststart"})
    except av.error.FFmpegError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from None
