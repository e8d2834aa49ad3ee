"""The proof for GPUs, rehearsed on a tiny network."""

import pytest
from jointrt.benchmarks import gpu_proof
from jointrt.benchmarks.gpu_rows import TINY, Row, build_net, frame_gflop, new_network, started
from jointrt.runtime.cuda_devices import query_cuda_driver
from jointrt.runtime.errors import DeviceError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_whole_script_runs(capsys):
    arguments = "--device cpu --tiny --no-tests --models lite --objects 1 --bundles nowhere"
    assert gpu_proof.main(arguments.split()) == 0
    out = capsys.readouterr().out
    for technique in ("released algorithm", "incremental memory", "captured", "fp16", "20 few-shot steps", "2 videos"):
        assert technique in out
    assert "nowhere, 1 objects: skipped: no bundle called or at 'nowhere'" in out


@pytest.mark.skipif(query_cuda_driver().problem is None, reason="this machine has a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        gpu_proof.main(["--no-tests"])


def test_operations_are_counted_as_convolutions_and_products_have_them():
    """The trunk's first convolution alone, and all of it within what a frame may cost."""
    net = build_net("lite", TINY)
    batch = started(new_network(net, TINY, "fp32"), TINY, 1)
    h, w = TINY.crop
    stem = 2 * 32 * 3 * 9 * (h // 2) * (w // 2) / 1e9
    assert 20 * stem < frame_gflop(batch) < 2000 * stem


def test_rates_count_all_videos():
    assert Row("lite", 1, "", p50=2.0, p99=3.0, frames=8).rate == 4000
    assert Row("lite", 1, "", p50=2.0, p99=3.0, frames=0).rate is None
