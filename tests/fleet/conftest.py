from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(name="make_clip")
def make_clip_fixture():
    from jointrt.runtime.video.masks import write_label_map

    def make_clip(folder, number, frames=3, size=(64, 96)):
        import av

        rng = np.random.default_rng(number)
        back = rng.integers(0, 255, (*size, 3), np.uint8)
        labels = np.zeros(size, np.uint8)
        labels[20:44, 30:60] = 1
        video = folder / f"clip{number}.mkv"
        with av.open(str(video), "w") as container:
            stream = container.add_stream("ffv1", rate=24)
            stream.height, stream.width, stream.pix_fmt = *size, "bgr0"
            for step in range(frames):
                image = back.copy()
                image[20 + step : 44 + step, 30 + step : 60 + step] = (200, 40, 10 * number)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        mask = folder / f"clip{number}.png"
        write_label_map(mask, labels)
        return video, mask

    return make_clip


@pytest.fixture(name="plan_for")
def plan_for_fixture():
    from jointrt.fleet.worker import Plan
    from jointrt.runtime.job.run import Request

    def plan_for(out, resume=False, kind="png", videos=1, **settings):
        chosen = {"bundle": "lite", "threads": 1, "overlay": False, **settings}
        request = Request(source=Path(), mask=Path(), out=Path(), **chosen)
        return Plan(request, str(out), kind, resume, videos)

    return plan_for
