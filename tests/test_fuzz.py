"""Files of strangers, damaged in every way: a `JointError` of one line, or contents, and nothing else.

The corpus is the files that tests and examples ship; Hypothesis cuts, overwrites, inserts and repeats their bytes, and
replaces values of a manifest.
"""

import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jointrt.errors import JointError
from jointrt.export.checkpoint.torch_file import load_checkpoint
from jointrt.runtime.bundle import Bundle, find_bundle
from jointrt.runtime.video.masks import read_label_map
from jointrt.runtime.video.sources import open_source
from PIL import Image

ROOT = Path(__file__).parents[1]
CHECKPOINTS = sorted((ROOT / "tests/data/checkpoints").glob("*.tar"))
FUZZ_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
"""More for a long search; the choice of examples is the same each time."""
fuzz = settings(
    max_examples=FUZZ_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Content(bytes):
    """Bytes that are not shown whole."""

    def __repr__(self):
        return f"{len(self)} bytes, sha256 {hashlib.sha256(self).hexdigest()[:12]}"


@st.composite
def damaged(draw, corpus):
    """One of some files' contents with one to four changes."""
    data = bytearray(draw(st.sampled_from(corpus)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["cut", "overwrite", "insert", "repeat", "number"]))
        if kind == "cut":
            del data[place:]
        elif kind == "overwrite":
            new = draw(st.binary(min_size=1, max_size=16))
            data[place : place + len(new)] = new
        elif kind == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=64))
        elif kind == "repeat":
            data[place:place] = data[place : place + draw(st.integers(1, 256))]
        else:
            # Lengths and counts are where a reader is led astray.
            width = draw(st.sampled_from([1, 2, 4, 8]))
            value = draw(st.sampled_from([0, 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width) - 1]))
            data[place : place + width] = value.to_bytes(width, draw(st.sampled_from(["little", "big"])))
    return Content(data)


def png(labels, palette=None):
    image, stream = Image.fromarray(labels), io.BytesIO()
    if palette is not None:
        image.putpalette(palette)
    image.save(stream, format="PNG")
    return stream.getvalue()


LABELS = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3), np.ones((12, 16), np.uint8))
MASKS = [png(LABELS), png(LABELS, [0, 0, 0, *range(3, 255)]), png(LABELS.astype(np.uint16)), png(LABELS > 2)]


def one_line(read):
    """What a reader gives; None where it refuses."""
    try:
        return read()
    except JointError as error:
        assert "\n" not in str(error) and str(error)
        return None


@fuzz
@given(damaged(MASKS))
def test_damaged_masks(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.png"
    path.write_bytes(content)
    labels = one_line(lambda: read_label_map(path))
    assert labels is None or (labels.dtype == np.uint8 and labels.ndim == 2)


@fuzz
@given(damaged([file.read_bytes() for file in CHECKPOINTS]))
def test_damaged_checkpoints(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.pth.tar"
    path.write_bytes(content)

    one_line(lambda: load_checkpoint(path))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    import av

    folder, contents = tmp_path_factory.mktemp("clips"), []
    for suffix, codec, pix in (
        ("mp4", "libx264", "yuv420p"),
        ("mkv", "libx264", "yuv420p"),
        ("avi", "mjpeg", "yuvj420p"),
    ):
        path = folder / f"a.{suffix}"
        with av.open(str(path), "w") as output:
            stream = output.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = 32, 48, pix
            for number in range(6):
                picture = np.full((32, 48, 3), 40 * number, np.uint8)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            output.mux(stream.encode(None))
        contents.append(Content(path.read_bytes()))
    return contents


@fuzz
@given(data=st.data())
def test_damaged_videos(tmp_path_factory, clip, data):
    content = data.draw(damaged(clip))
    path = tmp_path_factory.getbasetemp() / "fuzz.video"
    path.write_bytes(content)

    def read():
        source = open_source(path)
        count = 0
        for frame in source.frames():
            assert frame.image.shape[:2] == source.size
            count += 1
            if count > 100:
                break
        return count

    one_line(read)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(-4, 4), max_size=3),
    st.just({}),
)


def places(value, path=()):
    """Paths of everything in a JSON value."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from places(child, (*path, key))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return shutil.copytree(find_bundle("lite-int8"), tmp_path_factory.mktemp("bundle") / "lite-int8")


@fuzz
@given(data=st.data())
def test_damaged_manifests(bundle, data):
    whole = json.loads((find_bundle("lite-int8") / "manifest.json").read_bytes())
    changed = json.loads(json.dumps(whole))
    *parents, last = data.draw(st.sampled_from(list(places(whole))))
    target = changed
    for parent in parents:
        target = target[parent]
    if data.draw(st.booleans()):
        target[last] = data.draw(VALUES)
    else:
        del target[last]
    (bundle / "manifest.json").write_text(json.dumps(changed))
    one_line(lambda: Bundle.open(bundle))
