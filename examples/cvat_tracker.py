"""An AI agent that tracks in CVAT Online, masks and polygons.

cvat-cli function create-native JointRT --function-file cvat_tracker.py
cvat-cli function run-agent ID --function-file cvat_tracker.py -p bundle=str:lite
"""

import cv2
import cvat_sdk.auto_annotation as cvataa
import numpy as np
from cvat_sdk.masks import decode_mask, encode_mask
from jointrt import Segmenter


class Tracker:
    """CVAT's `TrackingFunction`; all objects share one segmenter, each has a snapshot of its own to go on from."""

    spec = cvataa.TrackingFunctionSpec(supported_shape_types=["mask", "polygon"])

    def __init__(self, bundle):
        self.segmenter = Segmenter.load(bundle)

    def preprocess_image(self, context, image):
        """RGB (H, W, 3)."""
        return np.asarray(image.convert("RGB"))

    def init_tracking_state(self, context, pp_image, shape):
        """A snapshot after the frame that the shape was drawn in; a list, so that it can be replaced."""
        height, width = pp_image.shape[:2]
        if shape.type == "mask":
            mask = decode_mask(shape.points, image_width=width, image_height=height).astype(np.uint8)
        else:
            mask = np.zeros((height, width), np.uint8)
            cv2.fillPoly(mask, [np.rint(np.reshape(shape.points, (-1, 2))).astype(np.int32)], 1)
        self.segmenter.reset()
        self.segmenter.step(pp_image, mask)
        return [self.segmenter.snapshot()]

    def track(self, context, pp_image, state):
        """The object in the next frame as the shape that it was; None where it is not seen."""
        self.segmenter.reset()
        self.segmenter.restore(state[0])
        mask = self.segmenter.step(pp_image) > 0
        state[0] = self.segmenter.snapshot()
        if not mask.any():
            return None
        if context.original_shape_type == "mask":
            return cvataa.TrackableShape(type="mask", points=encode_mask(mask))
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        largest = max(contours, key=cv2.contourArea)
        return cvataa.TrackableShape(type="polygon", points=largest.ravel().tolist()) if len(largest) > 2 else None


def create(bundle: str = "lite-int8") -> Tracker:
    """What the agent runs."""
    return Tracker(bundle)
