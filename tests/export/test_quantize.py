import numpy as np
import onnx
import pytest
from jointrt.export import quantize
from jointrt.export.parity import CLIP
from jointrt.export.quantize import QuantizeOptions, quantize_bundle
from jointrt.runtime.bundle import sha256_of
from jointrt.runtime.errors import BundleError
from jointrt.runtime.segmenter import Segmenter


def test_convolutions_become_8_bit_within_the_target_and_the_rest_is_copied(tiny_bundle, tmp_path, disc, monkeypatch):
    # The smallest graph: the search takes minutes on all three.
    monkeypatch.setattr(quantize, "QUANTIZED", ("label_encoder",))
    options = QuantizeOptions(max_error=0.2, frames=2, samples=2)
    made = quantize_bundle(tiny_bundle, [CLIP], tmp_path / "int8", options)
    assert made.manifest.precision == "int8"
    assert made.manifest.weights == tiny_bundle.manifest.weights
    for name, record in made.manifest.graphs.items():
        same = sha256_of(made.path(record.file)) == tiny_bundle.manifest.files[record.file]
        assert same == (name not in quantize.QUANTIZED)
    for name in quantize.QUANTIZED:
        found = made.manifest.quantization.graphs[name]
        assert found.rel_l2 <= 0.2
        assert set(found.kept) < set(found.sensitivity)
        if found.kept:
            left = set(found.sensitivity) - set(found.kept)
            assert min(found.sensitivity[n] for n in found.kept) >= max(found.sensitivity[n] for n in left)
        types = {i.data_type for i in onnx.load(str(made.path(made.manifest.graphs[name].file))).graph.initializer}
        assert {onnx.TensorProto.INT8, onnx.TensorProto.UINT8} <= types
    segmenter = Segmenter.load(made.folder)
    frame, mask = disc(0)
    segmenter.step(frame, mask)
    assert segmenter.step(disc(1)[0]).shape == mask.shape
    assert np.isfinite(segmenter.probabilities()[1]).all()
    with pytest.raises(BundleError, match="int8"):
        quantize_bundle(made, [CLIP], tmp_path / "again", options)
