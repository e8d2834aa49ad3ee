"""What looks at a GPU's first minutes, and what counts without one."""

import shutil

import pytest
import torch
from jointrt.benchmarks.gpu import count, probe
from jointrt.benchmarks.gpu.rows import TINY
from torch.nn import functional as F

pytestmark = pytest.mark.usefixtures("one_thread")


def test_sections_write_what_they_find_and_a_failure_leaves_the_others(tmp_path, monkeypatch):
    def broken(_):
        raise RuntimeError("no such kernel")

    broken.__name__ = "kernels"
    monkeypatch.setattr(probe, "SECTIONS", (probe.speed, broken, probe.attention))
    assert probe.main([str(tmp_path), "--device", "cpu", "--tiny"]) == 1
    text = (tmp_path / "probe.txt").read_text()
    assert "update" in text and "kernels FAILED\nTraceback" in text and "no such kernel" in text
    assert text.index("no such kernel") < text.index("-- attention")


def test_an_unknown_section_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        probe.main([str(tmp_path), "speeed"])
    assert "no section is called speeed" in capsys.readouterr().err


def test_a_convolution_its_bias_and_a_relu_are_three_kernels():
    """Of 8 to 16 channels, 3x3, 10x12, fp16: weights, inputs and outputs are moved, and 2 operations a product."""
    x, weight, bias = (torch.empty(s, dtype=torch.half, device="meta") for s in ((1, 8, 10, 12), (16, 8, 3, 3), (16,)))
    with count.counted() as tally:
        F.relu(F.conv2d(x, weight, bias, padding=1).view(1, 16, 120)).transpose(1, 2)
    out = 2 * 16 * 120
    assert tally.kernels == tally.small == 3
    assert tally.bytes == 2 * (8 * 120 + 16 * 8 * 9 + 16) + out + 2 * out + 2 * out
    assert tally.gflop == pytest.approx(2 * 16 * 8 * 9 * 120 / 1e9)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "gcc", "clang"))), reason="Inductor asks for a compiler")
def test_compiled_graphs_are_fewer_kernels():
    """Attention is one call with what is done to its operands, where each operator is a kernel of its own otherwise."""
    plain = count.tallies("lite", TINY, 1, "fp16")["  memory_read"].kernels
    written, called = count.compiled_graphs("lite", TINY, "fp16", ("memory_read",))["memory_read"]
    assert called >= 1 and 1 <= written + called < plain


def test_a_frame_is_its_engines_and_what_lies_between_them():
    found = count.tallies("lite", TINY, 1, "fp16")
    parts = ("backbone", "transformer_query", "memory_read", "decoder", "geometry, paste, merge")
    assert found["frame"].kernels == sum(found[f"  {name}"].kernels for name in parts)
    assert found["update"].gflop > found["  memory_update"].gflop > 0


def test_objects_that_look_at_whole_frames_share_what_a_frame_costs():
    one, three = (count.tallies("lite", TINY, objects, "fp16", "frame") for objects in (1, 3))
    alone = count.tallies("lite", TINY, 3, "fp16")
    for name in ("  backbone", "  transformer_query"):
        assert three[name].gflop == one[name].gflop == pytest.approx(alone[name].gflop / 3)
    spared = sum(alone[name].gflop - one[name].gflop for name in ("  backbone", "  transformer_query"))
    assert three["frame"].gflop == pytest.approx(alone["frame"].gflop - spared)
