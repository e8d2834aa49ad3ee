"""The JPEG cache: bounded, of this film only, and sums that stay right."""

import cv2
import numpy as np
from jointrt.studio.frames import FrameCache

from .browser import short_clip


def settled(path, folder, limit=1 << 30) -> FrameCache:
    cache = FrameCache(path, folder, limit)
    cache._thread.join()
    return cache


def bytes_in(folder) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.jpg"))


def test_every_frame_is_kept_once_and_looks_like_the_film(tmp_path):
    cache = settled(short_clip(tmp_path / "a.mp4", 12, side=4), tmp_path / "cache")
    assert len(list((tmp_path / "cache").rglob("*.jpg"))) == cache.count == 12
    shown = cv2.imdecode(np.frombuffer(cache.jpeg(7), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(shown.astype(int) - cache.exact(7)).mean() < 3


def test_the_cache_stays_under_its_bound_and_frames_beyond_it_are_served(tmp_path):
    film = short_clip(tmp_path / "a.mp4", 12, side=4)
    whole = bytes_in(settled(film, tmp_path / "whole")._folder)
    cache = settled(film, tmp_path / "cache", whole // 3)
    assert 0 < bytes_in(tmp_path / "cache") <= whole // 3
    for index in (11, 0, 6, 11, 3):
        assert cache.jpeg(index)[:2] == b"\xff\xd8"
        assert bytes_in(tmp_path / "cache") == cache._total <= whole // 3


def test_another_film_of_the_same_name_gets_frames_of_its_own(tmp_path):
    film = short_clip(tmp_path / "a.mp4", 4, side=4)
    first = settled(film, tmp_path / "cache").jpeg(0)
    short_clip(film, 4, side=8)
    second = settled(film, tmp_path / "cache").jpeg(0)
    assert (
        cv2.imdecode(np.frombuffer(second, np.uint8), 1).shape != cv2.imdecode(np.frombuffer(first, np.uint8), 1).shape
    )


def test_frames_of_films_not_opened_for_long_make_room(tmp_path):
    old = settled(short_clip(tmp_path / "a.mp4", 6, side=4), tmp_path / "cache")
    size = bytes_in(tmp_path / "cache")
    new = settled(short_clip(tmp_path / "b.mp4", 8, side=4), tmp_path / "cache", size + size // 2)
    assert not old._folder.exists()
    assert bytes_in(tmp_path / "cache") == bytes_in(new._folder) <= size + size // 2
