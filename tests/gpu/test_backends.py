"""Every backend that this machine can use, from a bundle to masks, against the CPU's."""

import pytest
import torch
from jointrt.errors import DependencyError, DeviceError
from jointrt.runtime.backends import Name
from jointrt.runtime.device.readiness import backend_problem
from jointrt.runtime.segmenter import Segmenter

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a torch with CUDA")


def built(bundle, kind, out):
    """A bundle of a backend's engines; of the network's weights as it is."""
    if kind == "torch":
        return bundle
    if kind == "onnxruntime":
        from jointrt.export.build.onnxruntime import build_onnx_bundle

        return build_onnx_bundle(bundle, out, precision="fp16", memory=3)
    from jointrt.export.build.tensorrt import BuildOptions, build_bundle

    options = BuildOptions.check(backend=kind, precision="fp16", targets=(), max_objects=2, memory=3)
    try:
        return build_bundle(bundle, out, options)
    except (DependencyError, DeviceError) as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("kind", ["torch", "onnxruntime", "tensorrt", "tensorrt-rtx"])
def test_a_bundle_on_a_gpu_gives_the_masks_of_the_host(request, tmp_path, disc, kind):
    backend = kind.partition("-")[0]
    if problem := backend_problem(Name(backend)):
        pytest.skip(problem)
    for library in ("av", "onnxruntime", "onnxscript"):
        pytest.importorskip(library, reason=f"{library}, with which bundles are made, is not installed")
    tiny_bundle = request.getfixturevalue("tiny_bundle")
    folder = built(tiny_bundle, kind, tmp_path / "built").folder
    found, expected = Segmenter.load(folder, device="cuda", backend=backend), Segmenter.load(tiny_bundle.folder)
    for t in range(12):
        frame, mask = disc(t)
        a, b = (s.step(frame, mask if t == 0 else None) > 0 for s in (found, expected))
        assert (a & b).sum() > 0.98 * (a | b).sum(), t
