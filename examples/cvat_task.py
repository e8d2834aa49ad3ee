"""Follow the objects of a CVAT task: CVAT_ACCESS_TOKEN=... python cvat_task.py https://app.cvat.ai TASK [BUNDLE].

Masks and polygons that somebody drew are taken; objects are told apart by label and group, the later shapes of one
correct it. Masks for all other frames are brought back as shapes of these frames, as CVAT has no tracks of masks.
"""

import os
import sys

import cv2
import numpy as np
from cvat_sdk import make_client, models
from cvat_sdk.core.proxies.annotations import AnnotationUpdateAction
from cvat_sdk.masks import decode_mask, encode_mask
from jointrt import Segmenter
from PIL import Image
from rich.progress import track


def drawn(shape, size):
    """A shape's pixels (H, W); None for those that are neither masks nor polygons."""
    height, width = size
    if str(shape.type) == "mask":
        return decode_mask(shape.points, image_width=width, image_height=height)
    if str(shape.type) != "polygon":
        return None
    filled = np.zeros(size, np.uint8)
    cv2.fillPoly(filled, [np.rint(np.reshape(shape.points, (-1, 2))).astype(np.int32)], 1)
    return filled > 0


def given_masks(shapes, sizes):
    """Label maps by frame, and the (label, group) that each id stands for.

    Args:
        shapes: of a task.
        sizes: (H, W) of every frame.
    """
    objects, maps = {}, {}
    for shape in sorted(shapes, key=lambda shape: (shape.frame, getattr(shape, "z_order", 0))):
        mask = drawn(shape, sizes[shape.frame])
        if mask is not None and mask.any():
            object_id = objects.setdefault((shape.label_id, getattr(shape, "group", None) or 0), len(objects) + 1)
            maps.setdefault(shape.frame, np.zeros(sizes[shape.frame], np.uint8))[mask] = object_id
    return maps, {object_id: key for key, object_id in objects.items()}


def shapes_of(labels, frame, objects):
    """A frame's label map as CVAT's shapes, one for every object that is seen."""
    found = (i for i in objects if (labels == i).any())
    return [
        models.LabeledShapeRequest(
            type="mask",
            frame=frame,
            label_id=objects[i][0],
            group=objects[i][1],
            points=encode_mask(labels == i),
            source="auto",
        )
        for i in found
    ]


def follow(frames, maps, objects, segmenter):
    """Shapes for the frames from the first drawn one on, where nothing was drawn.

    Args:
        frames: (number, picture (H, W, 3)) in order.
        maps, objects: of `given_masks`.
        segmenter: follows them.
    """
    for frame, picture in frames:
        if frame < min(maps):
            continue
        labels = segmenter.step(picture, maps.get(frame), correct=True)
        if frame not in maps:
            yield from shapes_of(labels, frame, objects)


def main(server, task_id, bundle="lite-int8"):
    """Read the task, follow its objects, bring the masks back."""
    with make_client(server, access_token=os.environ["CVAT_ACCESS_TOKEN"]) as client:
        task = client.tasks.retrieve(int(task_id))
        meta = task.get_meta()
        kept = [frame for frame in range(task.size) if frame not in set(meta.deleted_frames)]
        # A video's frames have one entry for all.
        infos = meta.frames * task.size if len(meta.frames) == 1 else meta.frames
        sizes = {frame: (infos[frame].height, infos[frame].width) for frame in kept}
        maps, objects = given_masks([s for s in task.get_annotations().shapes if s.frame in sizes], sizes)
        if not maps:
            sys.exit("the task has neither masks nor polygons: draw each object in the frame where it begins")
        pictures = ((f, np.asarray(Image.open(task.get_frame(f)).convert("RGB"))) for f in track(kept))
        shapes = list(follow(pictures, maps, objects, Segmenter.load(bundle)))
        task.update_annotations(models.PatchedLabeledDataRequest(shapes=shapes), action=AnnotationUpdateAction.CREATE)
        print(f"task {task_id}: {len(objects)} objects, {len(shapes)} masks added")


if __name__ == "__main__":
    main(*sys.argv[1:])
