import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from jointrt.errors import MaskError, OutputError, VideoError
from jointrt.runtime.video.masks import (
    GivenMasks,
    MaskReading,
    davis_palette,
    distinct_colours,
    read_label_map,
    write_label_map,
)
from jointrt.runtime.video.sources import open_source
from PIL import Image

DAVIS_COLOURS = [
    *([0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128], [128, 128, 128]),
    *([64, 0, 0], [191, 0, 0], [64, 128, 0], [191, 128, 0], [64, 0, 128], [191, 0, 128], [64, 128, 128]),
    *([191, 128, 128], [0, 64, 0], [128, 64, 0], [0, 191, 0], [128, 191, 0], [0, 64, 128], [128, 64, 128]),
]
"""The first colours of the annotations of DAVIS 2017; grey levels follow."""


def squares(*ids, size=(48, 80)):
    labels = np.zeros(size, np.uint8)
    for place, object_id in enumerate(ids):
        labels[6 + 2 * place : 26 + 2 * place, 2 + 24 * place : 22 + 24 * place] = object_id
    return labels


def film(folder, count, size=(48, 80)):
    folder.mkdir()
    for index in range(count):
        Image.new("RGB", size[::-1]).save(folder / f"{index:05d}.jpg")
    return open_source(folder)


def test_palette_is_that_of_the_davis_annotations():
    palette = davis_palette()
    assert palette[:22].tolist() == DAVIS_COLOURS
    assert palette[22:].tolist() == [[i, i, i] for i in range(22, 256)]
    assert len(np.unique(distinct_colours(), axis=0)) == 256


def test_written_masks_are_palette_pngs_that_keep_ids(tmp_path):
    labels = squares(1, 7, 255)
    write_label_map(tmp_path / "00000.png", labels)
    assert [path.name for path in tmp_path.iterdir()] == ["00000.png"]
    with Image.open(tmp_path / "00000.png") as image:
        assert (image.format, image.mode) == ("PNG", "P")
        assert np.array_equal(np.array(image), labels)
        assert np.array(image.convert("RGB"))[10, 30].tolist() == DAVIS_COLOURS[7]
    assert np.array_equal(read_label_map(tmp_path / "00000.png"), labels)


def test_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "00000.png").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_label_map(tmp_path / "00000.png", squares(1))
    assert [path.name for path in tmp_path.iterdir()] == ["00000.png"]


def test_names_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("n" * 251 + ".png")
    write_label_map(path, squares(1))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("image", "ids"),
    [
        (Image.fromarray(squares(3, 20)), {3, 20}),
        (Image.fromarray(squares(255)), {1}),
        (Image.fromarray(squares(1, 255)), {1, 255}),
        (Image.fromarray(squares(9)), {9}),
        (Image.fromarray(squares(255)).convert("1"), {1}),
        (Image.fromarray(squares(255)).convert("RGB"), {1}),
        (Image.fromarray(squares(2, 4)).convert("RGBA"), {2, 4}),
        (Image.fromarray(squares(3, 200).astype(np.uint16)), {3, 200}),
        (Image.fromarray(squares(1).astype(np.uint16) * 65535), {1}),
    ],
)
def test_grey_and_black_and_white_masks(tmp_path, image, ids):
    image.save(tmp_path / "m.png")
    labels = read_label_map(tmp_path / "m.png")
    assert set(np.unique(labels).tolist()) == {0, *ids}
    assert labels.dtype == np.uint8
    assert np.array_equal(labels > 0, squares(*sorted(ids)) > 0)


def test_all_255_ids_on_small_patches_are_accepted(tmp_path):
    labels = np.kron(np.arange(256, dtype=np.uint8).reshape(16, 16), np.ones((4, 4), np.uint8))
    Image.fromarray(labels).save(tmp_path / "m.png")
    assert np.array_equal(read_label_map(tmp_path / "m.png"), labels)


def disk(size=(96, 96)):
    return cv2.circle(np.zeros(size, np.uint8), (48, 48), 25, 255, -1)


@pytest.mark.parametrize(
    "smoothed",
    [
        cv2.circle(np.zeros((96, 96), np.uint8), (48, 48), 25, 255, -1, cv2.LINE_AA),
        cv2.GaussianBlur(disk(), (0, 0), 1.0),
        cv2.GaussianBlur(disk(), (0, 0), 4.0),
        cv2.resize(disk(), (240, 200), interpolation=cv2.INTER_LINEAR),
        cv2.resize(disk(), (48, 48), interpolation=cv2.INTER_AREA),
        cv2.resize(squares(60, 120, 180), (200, 131), interpolation=cv2.INTER_CUBIC),
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_anti_aliased_masks_are_refused(tmp_path, smoothed, mode):
    Image.fromarray(smoothed).convert(mode).save(tmp_path / "m.png")
    with pytest.raises(MaskError, match=r"\d+ ids.*anti-aliased.*nearest"):
        read_label_map(tmp_path / "m.png")


def test_photo_reduced_to_a_palette_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (48, 80, 3), np.uint8)
    Image.fromarray(noise).quantize(64).save(tmp_path / "m.png")
    with pytest.raises(MaskError, match=r"64 ids|63 ids"):
        read_label_map(tmp_path / "m.png")


def test_masks_that_say_no_ids_are_refused(tmp_path):
    colours = davis_palette()[squares(1, 2)]
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    Image.fromarray(squares(255)).save(tmp_path / "lossy.jpg")
    many = np.arange(300, dtype=np.uint16).repeat(16).reshape(60, 80)
    Image.fromarray(many).save(tmp_path / "many.png")
    Image.fromarray((squares(1) * np.uint16(1000)).astype(np.uint16)).save(tmp_path / "large.png")
    (tmp_path / "text.png").write_text("no image")
    whole = (tmp_path / "rgb.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) - 40])
    for name, said in {
        "missing.png": "does not exist",
        "rgb.png": "RGB image of 3 colours with no palette.*indexed",
        "lossy.jpg": "JPEG.*expected a PNG",
        "many.png": "299 objects: expected at most 255",
        "large.png": "ids up to 1000",
        "text.png": "cannot be read as a PNG",
        "cut.png": "cannot be read as a PNG",
    }.items():
        with pytest.raises(MaskError, match=said):
            read_label_map(tmp_path / name)


def test_single_mask_belongs_to_the_first_segmented_frame(tmp_path):
    source = film(tmp_path / "film", 8)
    write_label_map(tmp_path / "m.png", squares(4, 2))
    masks = GivenMasks.read(tmp_path / "m.png", source, start=3)
    assert masks.begin == 3
    assert masks.ids_until(3) == {2, 4}
    assert np.array_equal(masks.at(3), squares(4, 2))
    assert masks.at(4) is None


def test_wrong_size_and_empty_masks_are_refused(tmp_path):
    source = film(tmp_path / "film", 2)
    write_label_map(tmp_path / "small.png", squares(1, size=(40, 60)))
    write_label_map(tmp_path / "empty.png", squares())
    with pytest.raises(MaskError, match=r"60x40.*80x48"):
        GivenMasks.read(tmp_path / "small.png", source)
    with pytest.raises(MaskError, match="empty"):
        GivenMasks.read(tmp_path / "empty.png", source)


def folder_of_masks(path, **masks):
    path.mkdir()
    for name, labels in masks.items():
        write_label_map(path / f"{name[1:]}.png", labels)
    return path


def test_folder_of_masks_adds_objects_where_they_are_new(tmp_path):
    source = film(tmp_path / "film", 12)
    folder = folder_of_masks(
        tmp_path / "m", f00000=squares(), f00002=squares(1), f00005=squares(1, 3), f00007=squares(3), f00009=squares(8)
    )
    masks = GivenMasks.read(folder, source)
    assert masks.begin == 2
    assert masks.new_ids == {2: {1}, 5: {3}, 9: {8}}
    assert GivenMasks.read(folder, source, start=6).new_ids == {7: {3}, 9: {8}}
    assert GivenMasks.read(folder, source, stop=6).new_ids == {2: {1}, 5: {3}}


def test_folders_of_masks_that_do_not_fit_are_refused(tmp_path):
    source = film(tmp_path / "film", 12)
    with pytest.raises(MaskError, match="holds no PNG"):
        GivenMasks.read(folder_of_masks(tmp_path / "a"), source)
    with pytest.raises(MaskError, match=r"00012\.png is named like no frame .*00000 to 00011"):
        GivenMasks.read(folder_of_masks(tmp_path / "b", f00012=squares(1)), source)
    with pytest.raises(MaskError, match="no mask with an object"):
        GivenMasks.read(folder_of_masks(tmp_path / "c", f00000=squares()), source)
    folder = folder_of_masks(tmp_path / "d", f00000=squares(1), f00003=squares(1, 2))
    with pytest.raises(MaskError, match=r"object 2 .*00003\.png.*every=2"):
        GivenMasks.read(folder, source, every=2)
    assert GivenMasks.read(folder, source, every=3).new_ids == {0: {1}, 3: {2}}


def block(value=1, size=(48, 64)):
    labels = np.zeros(size, np.uint8)
    labels[12:30, 20:44] = value
    return labels


@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0), (12, 200, 99)])
@pytest.mark.parametrize(
    "make", [lambda i: i.quantize(2), lambda i: i.convert("P", palette=Image.Palette.ADAPTIVE, colors=2)]
)
def test_black_is_the_background_whatever_its_place_in_the_palette(tmp_path, colour, make):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[block() > 0] = colour
    make(Image.fromarray(picture)).save(tmp_path / "m.png")
    labels = read_label_map(tmp_path / "m.png")
    np.testing.assert_array_equal(labels > 0, block() > 0)
    assert len(np.unique(labels)) == 2


def test_without_black_the_border_s_colour_is_the_background(tmp_path):
    image = Image.fromarray(1 - block())
    image.putpalette([255, 0, 0, 250, 250, 250])
    image.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "m.png"), block())


def test_a_palette_in_which_the_background_cannot_be_told_is_refused(tmp_path):
    labels = block(2)
    labels[0, 0] = 1
    image = Image.fromarray(labels)
    image.putpalette([255, 255, 255, 255, 0, 0, 0, 0, 0])
    image.save(tmp_path / "m.png")
    with pytest.raises(MaskError, match="index 0 is #ffffff, black is index 2"):
        read_label_map(tmp_path / "m.png")


@pytest.mark.parametrize("palette", [True, False])
def test_small_and_thin_objects_are_ids(tmp_path, palette):
    tiny, line = np.zeros((48, 64), np.uint8), block(2)
    for i in range(10):
        tiny[4 * i : 4 * i + 2, 50:52] = i + 1
    line[12:30, 44] = 1
    for labels in (tiny, line):
        image = Image.fromarray(labels)
        if palette:
            image.putpalette(np.random.default_rng(1).permutation(256 * 3 - 3).astype(np.uint8).tobytes())
            image.putpalette([0, 0, 0, *image.getpalette()[3:]])
        image.save(tmp_path / "m.png")
        np.testing.assert_array_equal(read_label_map(tmp_path / "m.png"), labels)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("black", [True, False])
def test_a_cut_out_is_one_object(tmp_path, mode, black):
    picture = np.random.default_rng(0).integers(1, 255, (48, 64, 4), np.uint8) * (not black)
    picture[..., 3] = 255 * block()
    image = Image.fromarray(picture.astype(np.uint8))
    (image if mode == "RGBA" else image.convert("LA") if black else image).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "m.png"), block())


def test_an_image_that_claims_to_be_huge_is_refused_before_it_is_decoded(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "m.png").write_bytes(content)
    with pytest.raises(MaskError, match=r"100000x100000|exceeds limit"):
        read_label_map(tmp_path / "m.png")


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(6):
        Image.fromarray(np.full((48, 64, 3), 40 * i, np.uint8)).save(folder / f"frame_{i:05d}.jpg")
    return folder


def test_the_mask_among_the_frames_is_no_frame(frames):
    Image.fromarray(block() * 255).save(frames / "frame_00000.png")
    with pytest.raises(VideoError, match="one name"):
        open_source(frames)
    source = open_source(frames, exclude=frames / "frame_00000.png")
    assert [f.name for f in source.files] == [f"frame_{i:05d}.jpg" for i in range(6)]


def test_an_image_named_otherwise_than_all_others_is_left_out_with_a_note(frames):
    Image.fromarray(block() * 255).save(frames / "first_mask.png")
    source = open_source(frames)
    assert source.count == 6 and source.name(0) == "frame_00000"
    assert source.notes == ("6 images named like frame_# are the frames; left out: first_mask.png",)


@pytest.mark.parametrize(("form", "name"), [("P", "mask_{:05d}"), ("L", "mask_{:05d}"), ("1", "{:05d}")])
def test_masks_among_the_frames_are_left_out_with_a_note(frames, form, name):
    for i in range(6):
        Image.fromarray(block() * 255).convert(form).save(frames / f"{name.format(i)}.png")
    source = open_source(frames)
    assert [f.name for f in source.files] == [f"frame_{i:05d}.jpg" for i in range(6)]
    assert len(source.notes) == 1 and "left out" in source.notes[0] and "and 3 more" in source.notes[0]


def test_several_masks_for_each_frame_are_left_out_and_frames_with_a_palette_are_not(frames, tmp_path):
    for i in range(18):
        Image.fromarray(block() * 255).save(frames / f"object_{i}.png")
    assert open_source(frames).count == 6
    (tmp_path / "indexed").mkdir()
    for i in range(6):
        Image.fromarray(block()).save(tmp_path / f"indexed/f_{i}.png")
    Image.new("RGB", (64, 48)).save(tmp_path / "indexed/thumbnail_1.jpg")
    assert open_source(tmp_path / "indexed").count == 6


def test_a_picture_without_a_number_is_no_frame_of_few_that_have_one(frames):
    for i in range(2, 6):
        (frames / f"frame_{i:05d}.jpg").unlink()
    Image.new("RGB", (32, 24)).save(frames / "thumbnail.jpg")
    source = open_source(frames)
    assert source.count == 2 and "thumbnail.jpg" in source.notes[0]


def test_two_kinds_of_names_are_told_where_both_are_frames(frames):
    for i in range(6):
        Image.new("RGB", (64, 48)).save(frames / f"take_{i:05d}.jpg")
    source = open_source(frames)
    assert source.count == 12
    assert source.notes == (
        "all 12 images are taken as frames, though their names differ: 6 like frame_#, 6 like take_#",
    )


@pytest.mark.parametrize(
    "names", [("a1f", "b22c", "c3d", "9e", "f0f0", "e1"), ("one", "two", "three", "four 4"), ("a", "b", "c")]
)
def test_names_of_no_pattern_are_all_frames(tmp_path, names):
    for name in names:
        Image.new("RGB", (64, 48)).save(tmp_path / f"{name}.png")
    assert open_source(tmp_path).count == len(names)


def test_the_first_of_copies_has_no_number(tmp_path):
    for name in ("image", "image (1)", "image (2)"):
        Image.new("RGB", (64, 48)).save(tmp_path / f"{name}.png")
    assert open_source(tmp_path).count == 3


def test_a_link_to_the_mask_is_no_frame_either(frames, tmp_path):
    Image.fromarray(block() * 255).save(tmp_path / "mask.png")
    (frames / "frame_00006.png").hardlink_to(tmp_path / "mask.png")
    assert open_source(frames, exclude=tmp_path / "mask.png").count == 6


@pytest.mark.parametrize("given", ["https://host/mask.png", "-"])
def test_what_is_no_mask_file_is_named_for_what_it_is(given):
    with pytest.raises(MaskError, match=f"{given} (is an address|stands for)"):
        read_label_map(Path(given))


def test_a_pipe_is_no_mask(tmp_path):
    os.mkfifo(tmp_path / "m.png")
    with pytest.raises(MaskError, match="is a pipe"):
        read_label_map(tmp_path / "m.png")


def test_masks_without_effect_are_counted_with_their_reason(frames, tmp_path):
    source = open_source(frames)
    given = tmp_path / "given"
    given.mkdir()
    for i, labels in {0: block(), 1: block(), 2: block(), 3: 0 * block(), 4: block(3)}.items():
        write_label_map(given / f"frame_{i:05d}.png", labels)
    masks = GivenMasks.read(given, source)
    assert list(masks.files) == [0, 4]
    assert len(masks.notes) == 2
    assert masks.notes[0].startswith("2 masks not used, only of objects that are followed already")
    assert masks.notes[1].startswith("1 mask not used, empty")
    corrected = GivenMasks.read(given, source, correct=True)
    assert list(corrected.files) == [0, 1, 2, 4] and len(corrected.notes) == 1


def test_255_beside_other_ids_is_void_unless_it_is_kept(frames, tmp_path):
    labels = block()
    labels[10:12, 20:44] = 255
    write_label_map(tmp_path / "m.png", labels)
    source = open_source(frames)
    masks = GivenMasks.read(tmp_path / "m.png", source)
    np.testing.assert_array_equal(masks.at(0), block())
    assert any("255" in note and "--keep-255" in note for note in masks.notes)
    kept = GivenMasks.read(tmp_path / "m.png", source, reading=MaskReading(keep_void=True))
    np.testing.assert_array_equal(kept.at(0), labels)
    write_label_map(tmp_path / "alone.png", np.where(labels == 255, 255, 0).astype(np.uint8))
    assert set(np.unique(GivenMasks.read(tmp_path / "alone.png", source).at(0))) == {0, 255}


@pytest.mark.parametrize("form", ["P", "L"])
@pytest.mark.parametrize("keep", [False, True])
def test_a_mask_of_nothing_but_void_adds_no_object_to_those_with_ids(frames, tmp_path, form, keep):
    given, void = tmp_path / "given", block()
    given.mkdir()
    void[10:12, 20:44] = 255
    for i, labels in {0: void, 2: np.where(void == 255, 255, 0).astype(np.uint8)}.items():
        image = Image.fromarray(labels)
        if form == "P":
            image.putpalette(davis_palette().tobytes())
        image.save(given / f"frame_{i:05d}.png")
    masks = GivenMasks.read(given, open_source(frames), reading=MaskReading(keep_void=keep))
    assert masks.new_ids == ({0: {1, 255}} if keep else {0: {1}})
    assert any("255" in note and note.startswith("2 masks") for note in masks.notes) is not keep


def test_a_correction_may_be_black_and_white(frames, tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    write_label_map(given / "frame_00000.png", block())
    Image.fromarray(block() * 255).save(given / "frame_00002.png")
    masks = GivenMasks.read(given, open_source(frames), correct=True)
    np.testing.assert_array_equal(masks.at(2), block())


def test_of_a_mask_that_adds_objects_only_those_are_taken_and_that_is_told(frames, tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    both = block()
    both[:6, :30] = 2
    write_label_map(given / "frame_00000.png", block())
    write_label_map(given / "frame_00002.png", both)
    source = open_source(frames)
    masks = GivenMasks.read(given, source)
    np.testing.assert_array_equal(masks.at(2), np.where(both == 2, 2, 0))
    assert [note for note in masks.notes if note.startswith("1 mask used for new objects only (frame_00002.png)")]
    corrected = GivenMasks.read(given, source, correct=True)
    np.testing.assert_array_equal(corrected.at(2), both)
    assert corrected.notes == () and corrected.fingerprint() != masks.fingerprint()


@pytest.mark.parametrize("first", ["black", "white"])
def test_transparent_pixels_of_a_palette_are_the_background(tmp_path, first):
    image = Image.fromarray(block())
    shape, rest = ([0, 0, 0], [255, 255, 255]) if first == "black" else ([255, 255, 255], [0, 0, 0])
    inverted = Image.fromarray(1 - block())
    for picture, palette, clear in ((image, [*rest, *shape], 0), (inverted, [*shape, *rest], 1)):
        picture.putpalette(palette)
        picture.save(tmp_path / "m.png", transparency=clear)
        np.testing.assert_array_equal(read_label_map(tmp_path / "m.png"), block())


def test_every_black_of_a_palette_that_does_not_begin_with_it_is_background(tmp_path):
    labels = block() * 2
    labels[labels == 0] = 3
    labels[:3] = 1
    image = Image.fromarray(labels)
    image.putpalette([255, 255, 255, 0, 0, 0, 200, 0, 0, 0, 0, 0])
    image.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "m.png"), block() * 2)


def test_an_object_that_is_followed_however_small_is_not_told(frames, tmp_path):
    labels = np.zeros((48, 64), np.uint8)
    labels[4:10, 4:10] = 1
    write_label_map(tmp_path / "m.png", labels)
    source = open_source(frames)
    assert any("36 pixels" in note for note in GivenMasks.read(tmp_path / "m.png", source).notes)
    assert GivenMasks.read(tmp_path / "m.png", source, reading=MaskReading(min_area=20)).notes == ()


def test_small_objects_and_masks_of_the_background_are_told(frames, tmp_path):
    labels = 1 - block()
    labels[20:23, 30:33] = 2
    write_label_map(tmp_path / "m.png", labels)
    notes = GivenMasks.read(tmp_path / "m.png", open_source(frames)).notes
    assert any("border" in note for note in notes)
    assert any("2 (9 pixels)" in note and "--min-area" in note for note in notes)
