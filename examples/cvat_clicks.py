"""An AI agent that makes masks from clicks and boxes in CVAT Online.

cvat-cli function create-native Clicks --function-file cvat_clicks.py
cvat-cli function run-agent ID --function-file cvat_clicks.py
"""

import cvat_sdk.auto_annotation as cvataa
import numpy as np
from cvat_sdk.masks import encode_mask
from jointrt.runtime.clicks.prompts import Click
from jointrt.runtime.clicks.segmenter import ClickSegmenter


class Clicks:
    """CVAT's `InteractionFunction`."""

    spec = cvataa.InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)

    def __init__(self, bundle):
        self.segmenter = ClickSegmenter.load(bundle)
        self.shown = None

    def preprocess_image(self, context, image):
        """RGB (H, W, 3)."""
        return np.asarray(image.convert("RGB"))

    def detect(self, context, pp_image, prompts):
        """One mask, or none where nothing is likelier the object than not."""
        if self.shown is not pp_image:
            self.segmenter.set_image(pp_image)
            self.shown = pp_image
        clicks = [Click(*point) for point in prompts.pos_points]
        clicks += [Click(*point, positive=False) for point in prompts.neg_points]
        box = prompts.bounding_box and (*prompts.bounding_box[0], *prompts.bounding_box[1])
        mask = self.segmenter.predict(clicks, box) > 0.5
        return [cvataa.InteractionResultShape(type="mask", points=encode_mask(mask))] if mask.any() else []


def create(bundle: str = "clicks") -> Clicks:
    """What the agent runs."""
    return Clicks(bundle)
