"""Clips that share a batch, in PyTorch on the CPU; what is expected is each clip alone."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("fsspec")
pytest.importorskip("torch")

from jointrt.errors import SettingsError
from jointrt.fleet.batch import check_batch
from jointrt.fleet.table import Clip
from jointrt.fleet.worker import Worker
from jointrt.runtime.video.masks import read_label_map

LENGTHS = {1: 6, 2: 3, 3: 4, 4: 3}
OTHER = (72, 96)
"""The size of clip 4."""


def masks(folder):
    return np.stack([read_label_map(p) for p in sorted(folder.glob("masks/*.png"))])


def test_clips_that_share_a_batch_are_segmented_as_each_alone(tmp_path, make_clip, plan_for, tiny_bundle):
    clips = []
    for number, frames in LENGTHS.items():
        video, mask = make_clip(tmp_path, number, frames, OTHER if number == 4 else (64, 96))
        clips.append(Clip(f"clip{number}", str(video), str(mask)))
    clips.append(Clip("bad", str(clips[3].video), str(clips[0].mask)))
    settings = {"bundle": str(tiny_bundle.folder), "backend": "torch:fp32"}
    out, alone = tmp_path / "out", tmp_path / "alone"
    out.mkdir(), alone.mkdir()
    together = Worker(plan_for(out, videos=2, **settings))
    with ThreadPoolExecutor(2) as threads:
        rows = list(threads.map(lambda clip: together.segment(clip, {}), clips))
    assert [row["error"] is None for row in rows] == [True] * 4 + [False] and "72" in rows[4]["error"], rows
    single = Worker(plan_for(alone, **settings))
    for clip, row in zip(clips[:4], rows, strict=False):
        assert single.segment(clip, {})["error"] is None
        found, expected = masks(out / clip.name), masks(alone / clip.name)
        assert len(found) == row["frames"] == LENGTHS[int(clip.name[-1])] and expected.any()
        assert (found == expected).mean() > 0.995, clip.name
    # Fewer calls than frames: some batches held two.
    assert together.loaded[0].batches < sum(LENGTHS.values())


@pytest.mark.parametrize(("settings", "said"), [({}, "follows one at a time"), ({"correct": True}, "not corrected")])
def test_what_cannot_share_a_batch_is_refused(tmp_path, plan_for, settings, said):
    with pytest.raises(SettingsError, match=said):
        check_batch("none.csv", plan_for(tmp_path / "out", videos=2, **settings), overwrite=False)
