"""A film and its masks in napari, to be looked at and corrected: python napari_masks.py dog.mp4 out/masks corrected.

What is painted is saved as the window closes: label maps of all frames in CORRECTED, which
`jointrt run dog.mp4 --mask corrected --correct -o again` takes.
"""

import sys
from pathlib import Path

import numpy as np
from jointrt.runtime.video.masks import read_label_map, write_label_map
from jointrt.runtime.video.sources import open_source


def layers(film, masks):
    """Napari's layers, (data, options, kind): frames (T, H, W, 3) and label maps (T, H, W), those missing empty."""
    frames = np.stack([frame.image for frame in open_source(Path(film)).frames(0)])
    labels = np.zeros(frames.shape[:3], np.uint8)
    for t, target in enumerate(labels):
        file = Path(masks, f"{t:05d}.png")
        if file.is_file():
            target[:] = read_label_map(file)
    return [(frames, {"name": Path(film).stem, "rgb": True}, "image"), (labels, {"name": "masks"}, "labels")]


def save(before, after, folder):
    """Label maps of the frames that were painted in; gives their numbers."""
    painted = np.flatnonzero((before != after).any((1, 2))).tolist()
    Path(folder).mkdir(parents=True, exist_ok=True)
    for t in painted:
        write_label_map(Path(folder, f"{t:05d}.png"), after[t])
    return painted


def show(viewer, film, masks):
    """Put them into a viewer, at the first frame. Returns the layer that is painted in, and the labels as they were."""
    for data, options, kind in layers(film, masks):
        shown = viewer.add_image(data, **options) if kind == "image" else viewer.add_labels(data.copy(), **options)
    viewer.dims.set_current_step(0, 0)
    return shown, data


def main(film, masks, corrected):
    """Show, wait, save."""
    import napari

    shown, before = show(napari.Viewer(), film, masks)
    napari.run()
    print("saved frames", save(before, np.asarray(shown.data), corrected))


if __name__ == "__main__":
    main(*sys.argv[1:])
