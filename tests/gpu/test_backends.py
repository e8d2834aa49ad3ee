"""Every backend that this machine can use, from a bundle to masks, against the CPU's."""

import pytest
import torch
from jointrt.runtime.device_backends import backend_problem
from jointrt.runtime.segmenter import Segmenter

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a torch with CUDA")


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_bundle_on_a_gpu_gives_the_masks_of_the_cpu(request, tmp_path, disc, backend):
    if problem := backend_problem(backend):
        pytest.skip(problem)
    for library in ("av", "onnxruntime", "onnxscript"):
        pytest.importorskip(library, reason=f"{library}, with which bundles are made, is not installed")
    tiny_bundle = request.getfixturevalue("tiny_bundle")
    folder = tiny_bundle.folder
    if backend == "onnxruntime":
        from jointrt.export.onnx_build import build_onnx_bundle

        folder = build_onnx_bundle(tiny_bundle, tmp_path / "fixed", precision="fp16", memory=3).folder
    found, expected = Segmenter.load(folder, device="cuda", backend=backend), Segmenter.load(tiny_bundle.folder)
    for t in range(12):
        frame, mask = disc(t)
        a, b = (s.step(frame, mask if t == 0 else None) > 0 for s in (found, expected))
        assert (a & b).sum() > 0.98 * (a | b).sum(), t
