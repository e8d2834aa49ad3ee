import gc
import itertools
import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from jointrt.errors import VideoError
from jointrt.runtime.video.sources import Decoding, natural_key, open_source
from PIL import Image


def write_video(path, images, times, time_base, *, rate, rotation=0, faststart=False, container="mp4"):
    """An all-key-frame H.264 video whose frames have the given times, in ticks of the time base."""
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", format=container, options=options) as output:
        stream = output.add_stream("libx264", rate=rate, options={"crf": "4", "g": "1", "bf": "0"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv444p"
        stream.codec_context.time_base = stream.time_base = time_base
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        for image, time in zip(images, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def pictures(count, size=(48, 80)):
    """Frames whose grey level is their number, with a bright upper left corner."""
    images = np.zeros((count, *size, 3), np.uint8)
    images += (np.arange(count, dtype=np.uint8) * 4)[:, None, None, None]
    images[:, : size[0] // 4, : size[1] // 4] = 250
    return list(images)


def test_ntsc_rate_stays_an_exact_fraction(tmp_path):
    path = write_video(
        tmp_path / "a.mp4", pictures(9), range(0, 9 * 1001, 1001), Fraction(1, 30000), rate=Fraction(30000, 1001)
    )
    source = open_source(path)
    assert source.rate == Fraction(30000, 1001)
    assert (source.size, source.count) == ((48, 80), 9)
    frames = list(source.frames())
    assert [frame.time for frame in frames] == [Fraction(1001 * i, 30000) for i in range(9)]
    assert [round(frame.image[40, 60].mean() / 4) for frame in frames] == list(range(9))
    assert [frame.name for frame in frames[:2]] == ["00000", "00001"]
    assert source.damage is None


def test_variable_frame_rate_keeps_every_time(tmp_path):
    times = [0, 40, 45, 200, 201, 1000]
    path = write_video(tmp_path / "a.mp4", pictures(6), times, Fraction(1, 1000), rate=25)
    assert [frame.time for frame in open_source(path).frames()] == [Fraction(time, 1000) for time in times]


def test_times_that_matroska_rounds_to_milliseconds_are_given_exactly(tmp_path):
    path = write_video(
        tmp_path / "a.mkv",
        pictures(7),
        range(0, 7 * 1001, 1001),
        Fraction(1, 30000),
        rate=Fraction(30000, 1001),
        container="matroska",
    )
    with av.open(str(path)) as container:
        assert [packet.pts for packet in container.demux() if packet.size] == [0, 33, 67, 100, 133, 167, 200]
    assert [frame.time for frame in open_source(path).frames()] == [Fraction(1001 * i, 30000) for i in range(7)]


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotation_metadata_turns_frames_as_opencv_does(tmp_path, rotation):
    path = write_video(tmp_path / "a.mp4", pictures(2), [0, 1], Fraction(1, 25), rate=25, rotation=rotation)
    source = open_source(path)
    frame = next(source.frames())
    expected = cv2.VideoCapture(str(path)).read()[1][..., ::-1]
    assert frame.image.shape == expected.shape
    assert source.size == expected.shape[:2]
    assert np.abs(frame.image.astype(int) - expected).max() < 12


def test_range_counts_frames_of_the_source(tmp_path):
    path = write_video(tmp_path / "a.mp4", pictures(20), range(20), Fraction(1, 25), rate=25)
    frames = list(open_source(path).frames(3, 15, 5))
    assert [(frame.index, frame.time) for frame in frames] == [(i, Fraction(i, 25)) for i in (3, 8, 13)]
    assert [round(frame.image[40, 60].mean() / 4) for frame in frames] == [3, 8, 13]


@pytest.mark.parametrize(("container", "suffix"), [("mp4", "mp4"), ("matroska", "mkv")])
def test_truncated_video_gives_what_can_be_read_and_says_so(tmp_path, container, suffix):
    noise = list(np.random.default_rng(0).integers(0, 255, (20, 48, 80, 3), np.uint8))
    whole = write_video(
        tmp_path / f"whole.{suffix}", noise, range(20), Fraction(1, 25), rate=25, faststart=True, container=container
    )
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    expected = [frame.image for frame in open_source(whole).frames()]
    source = open_source(cut)
    read = [frame.image for frame in source.frames()]
    assert 6 <= len(read) <= 11
    assert all((a == b).all() for a, b in zip(read, expected, strict=False))
    assert f"{len(read)} of its 20 frames could be read" in source.damage


def test_files_that_are_no_video_are_refused_in_one_line(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "text.txt").write_text("a text that a terminal could show\n" * 50)
    Image.new("RGB", (64, 48)).save(tmp_path / "image.png")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    whole = write_video(tmp_path / "whole.mp4", pictures(9), range(9), Fraction(1, 25), rate=25)
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:-200])
    for name, said in {
        "missing.mp4": "does not exist",
        "empty.mp4": "is empty",
        "noise.mp4": "is not a video",
        "text.txt": "text",
        "image.png": "a single image",
        "folder": "holds no frame",
        "pipe": "is a pipe",
        "cut.mp4": "truncated",
    }.items():
        with pytest.raises(VideoError, match=said) as caught:
            open_source(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "libx264"), ("mp4", "libx264"), ("avi", "mpeg4")])
def test_video_without_frames_is_refused(tmp_path, suffix, codec):
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        output.start_encoding()
        output.mux(stream.encode(None))
    with pytest.raises(VideoError, match="holds no frame"):
        open_source(path)


def test_folder_is_read_in_natural_order(tmp_path):
    for name, level in (("10.png", 10), ("2.png", 2), ("1.jpg", 1)):
        Image.new("L", (40, 30), level).save(tmp_path / name, quality=100)
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.png").touch()
    source = open_source(tmp_path)
    frames = list(source.frames())
    assert [(frame.name, int(frame.image.mean())) for frame in frames] == [("1", 1), ("2", 2), ("10", 10)]
    assert source.index_of("10") == 2
    assert source.size == (30, 40)


def test_16_bit_grey_keeps_its_brightness(tmp_path):
    grey = pictures(3)[2][..., 0]
    image = grey.astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "0.png"), image)
    cv2.imwrite(str(tmp_path / "1.tif"), image)
    for frame in open_source(tmp_path).frames():
        assert np.array_equal(frame.image, np.repeat(grey[..., None], 3, axis=2)), frame.name
    Image.fromarray(image.astype(np.float32)).save(tmp_path / "2.tif")
    with pytest.raises(VideoError, match=r"2\.tif holds 32-bit values"):
        list(open_source(tmp_path).frames())


def test_natural_order_ignores_case_and_leading_zeros_only():
    names = ["f10", "F9", "f009b", "f1"]
    assert sorted(names, key=natural_key) == ["f1", "F9", "f009b", "f10"]


def test_folder_images_are_turned_by_their_exif_data(tmp_path):
    image = Image.fromarray(pictures(1)[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "0.png", exif=exif)
    source = open_source(tmp_path)
    frame = next(source.frames())
    assert source.size == (80, 48)
    assert frame.image[5, 45].mean() == 250, "orientation 6 means: the camera's upper left is the upper right"


@pytest.mark.parametrize(
    ("names", "said"), [(("1.png", "1.jpg"), "one name"), (("1.png", "2.png", "3.png"), "of one size")]
)
def test_folders_that_cannot_be_one_film_are_refused(tmp_path, names, said):
    for name in names:
        Image.new("L", (80, 60) if name == "3.png" else (40, 30)).save(tmp_path / name)
    with pytest.raises(VideoError, match=said):
        open_source(tmp_path)


def test_unreadable_image_is_named(tmp_path):
    for name in ("0.png", "1.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:900])
    with pytest.raises(VideoError, match=r"1\.png cannot be read"):
        list(open_source(tmp_path).frames())


def with_edit_list(path, out, *, seconds, skip=0):
    """A copy of an MP4 whose one edit presents so many seconds from `skip` ticks of the stream later on."""
    data = bytearray(path.read_bytes())
    header = data.find(b"mvhd")
    timescale = struct.unpack(">I", data[header + 16 : header + 20])[0]
    place = data.find(b"elst") + 12
    _, begin, rate = struct.unpack(">IiI", data[place : place + 12])
    data[place : place + 12] = struct.pack(">IiI", int(seconds * timescale), begin + skip, rate)
    out.write_bytes(data)
    return out


@pytest.mark.parametrize("gop", [12, 24])
@pytest.mark.parametrize(("seconds", "skip"), [(0.5, 0), (1.0, 12288), (0.25, 6144)])
def test_an_edit_list_presents_less_than_the_header_counts(tmp_path, gop, seconds, skip):
    path = tmp_path / "whole.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=24, options={"g": str(gop), "bf": "2", "preset": "fast"})
        stream.height, stream.width, stream.pix_fmt = 48, 80, "yuv420p"
        for picture in pictures(48):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    cut = with_edit_list(path, tmp_path / "cut.mp4", seconds=seconds, skip=skip)
    with av.open(str(cut)) as container:
        presented = sum(1 for _ in container.decode(video=0))
    assert presented < 48
    source = open_source(cut)
    assert len(list(source.frames())) == presented
    assert source.count == presented and source.damage is None


def test_empty_chunks_of_an_avi_are_no_frames(tmp_path):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 80, "yuvj420p"
        for number, picture in enumerate(pictures(12)):
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                # The writer fills gaps with empty chunks.
                packet.pts = packet.dts = number + 3 * (number > 5)
                output.mux(packet)
        output.mux(stream.encode(None))
    source = open_source(path)
    frames = list(source.frames())
    assert len(frames) == 12 and source.damage is None
    assert source.count == 12


def coded(path, codec="mpeg4", pix_fmt="yuv420p", count=48, **options):
    """A video of so many frames, one key frame in twelve."""
    with av.open(str(path), "w", options=options) as output:
        stream = output.add_stream(codec, rate=24, options={"g": "12"})
        stream.height, stream.width, stream.pix_fmt = 48, 80, pix_fmt
        for picture in pictures(count):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    return path


def test_an_avi_without_its_index_is_read_whole_and_a_cut_one_is_told(tmp_path):
    whole = coded(tmp_path / "whole.avi", "mjpeg", "yuvj420p").read_bytes()
    (tmp_path / "a.avi").write_bytes(whole[: whole.rfind(b"idx1")])
    source = open_source(tmp_path / "a.avi")
    assert len(list(source.frames())) == 48 and source.damage is None and source.count is None
    assert [f.index for f in source.frames(start=40)] == list(range(40, 48)) and source.index_of("00047") == 47
    (tmp_path / "b.avi").write_bytes(whole[: len(whole) // 2])
    source = open_source(tmp_path / "b.avi")
    read = len(list(source.frames()))
    assert 0 < read < 48 and f"truncated or damaged: {read} of its 48 frames" in source.damage


def test_frames_that_an_avi_s_header_counts_wrong(tmp_path):
    data = bytearray(coded(tmp_path / "a.avi").read_bytes())
    for kind, place in ((b"avih", 24), (b"strh", 40)):
        at = data.find(kind) + place
        data[at : at + 4] = struct.pack("<I", 7)
    (tmp_path / "a.avi").write_bytes(data)
    source = open_source(tmp_path / "a.avi")
    assert source.count == 48 and len(list(source.frames())) == 48 and source.damage is None


@pytest.mark.parametrize("flags", ["frag_keyframe+empty_moov", "cmaf+global_sidx", "frag_keyframe", "cmaf"])
def test_an_mp4_in_fragments_counts_all_of_them_or_none(tmp_path, flags):
    path = coded(tmp_path / "a.mp4", movflags=flags)
    source = open_source(path)
    assert len(list(source.frames())) == 48 and source.damage is None
    assert source.count in (48, None)
    data = path.read_bytes()
    path.write_bytes(data[: int(0.6 * len(data))])
    source = open_source(path)
    assert 0 < len(list(source.frames())) < 48
    assert "truncated or damaged" in source.damage


def test_a_gif_without_its_end_is_told(tmp_path):
    data = coded(tmp_path / "a.gif", "gif", "rgb8", 12).read_bytes()
    assert open_source(tmp_path / "a.gif").damage is None
    (tmp_path / "a.gif").write_bytes(data[: len(data) * 2 // 3])
    source = open_source(tmp_path / "a.gif")
    assert 0 < len(list(source.frames())) < 12
    assert "truncated" in source.damage


def test_frames_beyond_the_limit_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = coded(tmp_path / "a.mp4")
    monkeypatch.setattr("jointrt.runtime.video.sources.MAX_PIXELS", 48 * 80 - 1)
    with pytest.raises(VideoError, match="80x48: expected frames of at most 3839 pixels"):
        open_source(path)


def test_a_duration_that_another_cut_left_in_a_tag_is_no_damage(tmp_path):
    path = write_video(tmp_path / "a.mkv", pictures(20), range(20), Fraction(1, 25), rate=25, container="matroska")
    data = path.read_bytes()
    place = data.find(b"00:00:00.8")
    assert place > 0
    path.write_bytes(data[:place] + b"00:00:09.8" + data[place + 10 :])
    source = open_source(path)
    assert len(list(source.frames())) == 20 and source.damage is None


def test_names_need_not_be_text(tmp_path):
    whole = write_video(tmp_path / "a.mp4", pictures(4), range(4), Fraction(1, 25), rate=25)
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/clip \xe9t\xe9.mp4"))
    whole.rename(odd)
    assert len(list(open_source(odd).frames())) == 4
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/fr\xe9"))
    folder.mkdir()
    for number, name in enumerate((b"b\xe9_1.png", b"b\xe9_2.png", "①②.png".encode())):
        Image.fromarray(pictures(4)[number]).save(tmp_path / "t.png")
        (tmp_path / "t.png").rename(os.fsdecode(os.fsencode(folder) + b"/" + name))
    source = open_source(folder)
    assert len(list(source.frames())) == source.count == 3
    assert len(source.fingerprint()) == 64


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("http://host/clip.mp4", "http://host/clip.mp4 is an address"),
        (Path("rtsp://host:554/live"), "rtsp://host:554/live is an address"),
        ("s3://bucket/clip.mp4", "is an address"),
        ("-", "standard input"),
    ],
)
def test_what_is_no_file_is_named_for_what_it_is(given, said):
    with pytest.raises(VideoError, match=said):
        open_source(given)


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(VideoError, match="is a pipe"):
        open_source(tmp_path / "pipe")
    (tmp_path / "frames").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "frames/0.png")
    os.mkfifo(tmp_path / "frames/1.png")
    with pytest.raises(VideoError, match="is a pipe"):
        open_source(tmp_path / "frames")


def test_several_pictures_in_one_file_are_told(tmp_path):
    images = [Image.new("RGB", (32, 24), colour) for colour in ("red", "green", "blue")]
    for name, kind in (("a.tif", "TIFF"), ("a.webp", "WEBP")):
        images[0].save(tmp_path / name, save_all=True, append_images=images[1:])
        with pytest.raises(VideoError, match=f"a {kind} of 3 pictures"):
            open_source(tmp_path / name)


def test_a_folder_s_fingerprint_follows_its_contents(tmp_path):
    for number in range(3):
        Image.fromarray(pictures(3)[number]).save(tmp_path / f"{number}.bmp")
    before = open_source(tmp_path).fingerprint()
    data = bytearray((tmp_path / "1.bmp").read_bytes())
    data[-5] ^= 1
    (tmp_path / "1.bmp").write_bytes(data)
    assert open_source(tmp_path).fingerprint() != before


def test_pictures_and_threads_go_as_they_are_read(tmp_path):
    """Nothing waits until Python looks for cycles."""
    source = open_source(write_video(tmp_path / "a.mp4", pictures(40), range(40), Fraction(1, 25), rate=25))
    gc.collect()
    gc.disable()
    # What is there already is not looked at again for every frame.
    gc.freeze()
    try:
        before = len(list(Path("/proc/self/task").iterdir()))
        for _ in source.frames():
            alive = sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())
            threads = len(list(Path("/proc/self/task").iterdir())) - before
            assert alive <= 3
            assert threads <= 1
    finally:
        gc.unfreeze()
        gc.enable()


def test_a_stream_that_begins_in_the_middle_is_passed_over(tmp_path):
    """Recordings joined end to end: sound comes with the second only, and PyAV does not know its packets."""
    silent = write_video(tmp_path / "a.ts", pictures(9), range(9), Fraction(1, 25), rate=25, container="mpegts")
    sounding = tmp_path / "b.ts"
    with av.open(str(sounding), "w", format="mpegts") as output:
        video, sound = output.add_stream("libx264", rate=25), output.add_stream("aac", rate=48000)
        video.height, video.width = 48, 80
        for image in pictures(9):
            output.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 20000), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 48000
        output.mux(sound.encode(samples))
        for stream in (video, sound):
            output.mux(stream.encode(None))
    joined = tmp_path / "c.ts"
    # FFmpeg looks for streams in the first five million bytes, and in the last.
    times = 5_200_000 // silent.stat().st_size
    many = silent.read_bytes() * times
    joined.write_bytes(many + sounding.read_bytes() + many)
    assert sum(1 for _ in open_source(joined).frames()) == 9 * (2 * times + 1)


def film_of(path, images, *, codec="libx264", **options):
    """A film whose key frames lie apart."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25, options={"threads": "1", **options})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in images:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "options", "linear"),
    [
        ("closed.mp4", {"g": "8", "bf": "2"}, True),
        ("open.mkv", {"g": "8", "bf": "2", "x264-params": "open-gop=1"}, True),
        ("refreshed.mkv", {"g": "8", "x264-params": "intra-refresh=1"}, None),
        ("ts.ts", {"g": "8", "bf": "2"}, None),
        ("single.mp4", {"g": "100"}, False),
        ("old.avi", {"codec": "mpeg4", "g": "8"}, True),
    ],
)
def test_backwards_is_forwards_reversed_and_decodes_from_key_frames(tmp_path, monkeypatch, name, options, linear):
    random = np.random.default_rng(1)
    images = [np.roll(random.integers(0, 255, (48, 80, 3), np.uint8), 3 * i, 1) // 2 + i for i in range(40)]
    source = open_source(film_of(tmp_path / name, images, **options))
    forwards = list(source.frames())
    assert len(forwards) == 40
    monkeypatch.setattr("jointrt.runtime.video.sources.MOST_HELD", 4 * images[0].nbytes)
    decoded = []
    plain = Decoding.frames
    monkeypatch.setattr(Decoding, "frames", lambda self: (decoded.append(1) or picture for picture in plain(self)))
    for last, every in ((39, 1), (36, 5)):
        decoded.clear()
        found = list(source.backwards(last, 0, every))
        assert [f.index for f in found] == list(range(last, -1, -every))
        for frame in found:
            expected = forwards[frame.index]
            assert np.array_equal(frame.image, expected.image)
            assert (frame.name, frame.time, frame.duration) == (expected.name, expected.time, expected.duration)
        if linear is not None and every == 1:
            # Of ten parts the first is decoded whole; each other from its key frame, or 4, 8, ... 36 frames of it.
            assert (len(decoded) < 40 + 180 - 40) == linear


def test_backwards_goes_on_where_seeking_leads_astray(tmp_path, monkeypatch):
    random = np.random.default_rng(2)
    images = [random.integers(0, 255, (48, 80, 3), np.uint8) for _ in range(24)]
    source = open_source(film_of(tmp_path / "a.mp4", images, g="6"))
    forwards = list(source.frames())
    monkeypatch.setattr("jointrt.runtime.video.sources.MOST_HELD", 4 * images[0].nbytes)
    monkeypatch.setattr("jointrt.runtime.video.sources._checksum", lambda picture: next(numbers))
    numbers = itertools.count()
    found = list(source.backwards(23))
    assert all(np.array_equal(f.image, forwards[f.index].image) for f in found)
    assert [f.index for f in found] == list(range(23, -1, -1))
