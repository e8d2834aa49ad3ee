"""A film and its masks as a FiftyOne dataset: python fiftyone_masks.py dog.mp4 out/masks NAME; opens its window."""

import sys
from pathlib import Path

import fiftyone as fo
import numpy as np
from jointrt.annotations import to_detections
from jointrt.runtime.video.masks import read_label_map


def sample(film, masks):
    """A video sample whose frames hold one detection with a mask for every object; FiftyOne counts frames from 1."""
    found = fo.Sample(filepath=str(Path(film).resolve()))
    for file in sorted(Path(masks).glob("*.png")):
        objects = to_detections(labels := read_label_map(file))
        height, width = labels.shape
        detections = []
        for (x0, y0, x1, y1), mask, number in zip(
            objects.xyxy.astype(int), objects.mask, objects.tracker_id, strict=True
        ):
            box = [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]
            part = np.ascontiguousarray(mask[y0:y1, x0:x1])
            detections.append(fo.Detection(label=f"object {number}", index=int(number), bounding_box=box, mask=part))
        found.frames[int(file.stem) + 1] = fo.Frame(objects=fo.Detections(detections=detections))
    return found


def main(film, masks, name):
    """Make the dataset, kept under its name, and show it."""
    dataset = fo.Dataset(name, persistent=True)
    dataset.add_sample(sample(film, masks))
    fo.launch_app(dataset).wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
