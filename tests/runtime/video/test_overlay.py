from fractions import Fraction
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from jointrt.errors import OutputError
from jointrt.runtime.video.masks import distinct_colours
from jointrt.runtime.video.overlay import OverlayVideo, draw_overlay


def decoded(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        # A stream's own memory goes with its container.
        facts = SimpleNamespace(
            average_rate=stream.average_rate,
            seconds=stream.duration * stream.time_base,
            size=(stream.height, stream.width),
            pix_fmt=stream.pix_fmt,
        )
        return facts, frames, [frame.pts * frame.time_base for frame in frames]


def write(path, times, durations, *, size=(48, 80), rate=Fraction(25), time_base=Fraction(1, 1000), level=90):
    video = OverlayVideo(path, size, rate, time_base, Fraction(1))
    for time, duration in zip(times, durations, strict=True):
        video.write(np.full((*size, 3), level, np.uint8), time, duration)
    assert not path.exists()
    video.close()
    return path


def test_objects_are_tinted_and_bordered_and_the_rest_is_untouched():
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    labels = np.zeros((480, 640), np.uint8)
    labels[100:200, 100:200], labels[100:200, 200:300] = 1, 2
    before = image.copy()
    shown = draw_overlay(image, labels)
    assert np.array_equal(image, before)
    assert np.array_equal(shown[labels == 0], image[labels == 0])
    for object_id, column in ((1, 150), (2, 250)):
        inside = image[150, column].astype(float) / 2 + distinct_colours()[object_id] / 2
        assert np.abs(shown[150, column] - inside).max() <= 1
        lighter = (255 + distinct_colours()[object_id].astype(int)) / 2
        assert np.abs(shown[100, column] - lighter).max() <= 1
    assert (shown[150, 199] != shown[150, 200]).any(), "two objects that touch have a border each"


def test_constant_rate_is_kept_to_the_last_digit(tmp_path):
    rate = Fraction(30000, 1001)
    times = [Fraction(5) + i / rate for i in range(11)]
    path = write(tmp_path / "o.mp4", times, [1 / rate] * 11, rate=rate, time_base=Fraction(1, 30000))
    stream, _, shown = decoded(path)
    assert stream.average_rate == rate
    assert shown == [i / rate for i in range(11)]
    assert [p.name for p in tmp_path.iterdir()] == ["o.mp4"]


def test_variable_rate_keeps_every_time(tmp_path):
    times = [Fraction(t, 1000) for t in (0, 40, 45, 200, 201, 1000)]
    stream, _, shown = decoded(write(tmp_path / "o.mp4", times, [Fraction(1, 25)] * 6))
    assert shown == times
    assert stream.seconds == Fraction(1040, 1000)


@pytest.mark.parametrize("size", [(47, 80), (48, 79), (47, 79)])
def test_odd_sizes_are_padded(tmp_path, size):
    stream, frames, _ = decoded(write(tmp_path / "o.mp4", [Fraction(0)], [Fraction(1, 25)], size=size))
    assert stream.size == (48, 80)
    assert stream.pix_fmt == "yuv420p"
    assert np.abs(frames[0].to_ndarray(format="rgb24").astype(int) - 90).max() <= 3


def test_colours_survive_encoding_for_another_decoder(tmp_path):
    image = np.zeros((96, 160, 3), np.uint8)
    for place, colour in enumerate(((200, 40, 40), (40, 200, 40), (40, 40, 200), (220, 220, 40))):
        image[:, 40 * place : 40 * place + 40] = colour
    video = OverlayVideo(tmp_path / "o.mp4", (96, 160), Fraction(25), Fraction(1, 25), Fraction(1))
    video.write(image, Fraction(0), Fraction(1, 25))
    video.close()
    shown = cv2.VideoCapture(str(tmp_path / "o.mp4")).read()[1][..., ::-1]
    centres = np.arange(20, 160, 40)
    assert np.abs(shown[48, centres].astype(int) - image[48, centres]).max() <= 12


def test_repeated_times_of_a_damaged_file_do_not_stop_the_video(tmp_path):
    times = [Fraction(t, 1000) for t in (0, 40, 40, 20, 80)]
    shown = decoded(write(tmp_path / "o.mp4", times, [Fraction(1, 25)] * 5))[2]
    assert shown == sorted(set(shown))
    assert len(shown) == 5


def test_unwritable_place_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"o\.mp4 cannot be written"):
        write(tmp_path / "file" / "o.mp4", [Fraction(0)], [Fraction(1, 25)])


def test_video_that_cannot_take_its_place_leaves_nothing(tmp_path):
    video = OverlayVideo(tmp_path / "o.mp4", (48, 80), Fraction(25), Fraction(1, 25), Fraction(1))
    video.write(np.zeros((48, 80, 3), np.uint8), Fraction(0), Fraction(1, 25))
    (tmp_path / "o.mp4").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        video.close()
    assert [path.name for path in tmp_path.iterdir()] == ["o.mp4"]
