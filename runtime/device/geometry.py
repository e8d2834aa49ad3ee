"""Crop, paste, soft aggregation and target state in torch, batched over objects, without a word to the host.

What `crop`, `target_state` and `aggregation` compute with whole arrays is computed here with tensors of fixed shape, on
whatever device they lie: no value decides a shape, so that a frame can be captured in a CUDA graph. The roundings are
those of the released tracker; for their sake nothing is divided in fp32 by a number of the host, for which torch
multiplies by the reciprocal on a GPU, one bit off; Inductor does so for constant tensors too. B counts
objects; positions and sizes are (row, column) in pixels of the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..manifest import Windows
from ..settings import MIN_AREA, ScoreResize
from ..tracking.crop import OUTSIDE, SIZE_TOLERANCE
from ..tracking.target_state import SCALE_CHANGE, SIZE_IN_DEVIATIONS


class DeviceWindow(NamedTuple):
    """Rectangles of the frame in steps of `stride` pixels, whole numbers; see `crop.Window`."""

    start: Tensor
    """(B, 2) top, left on the grid of every `stride`-th pixel."""
    stop: Tensor
    """(B, 2) bottom, right."""
    stride: Tensor
    """(B, 1)."""
    offset: Tensor
    """(B, 2) the grid's first pixel."""


def _number(value: float, like: Tensor) -> Tensor:
    """A scalar beside `like`, to divide by."""
    return torch.full((), value, dtype=like.dtype, device=like.device)


def _pair(values: tuple[int, int], like: Tensor) -> Tensor:
    """(row, column) beside `like`, filled in without a copy from the host."""
    pair = torch.empty(2, dtype=like.dtype, device=like.device)
    pair[0].fill_(values[0])
    pair[1].fill_(values[1])
    return pair


def ratio(length: Tensor, size: int) -> Tensor:
    """Whole numbers over a whole number, rounded correctly to fp32, also where the reciprocal is multiplied by.

    In fp64 that is a last bit off at most; a quotient of whole numbers below 2**14 that is not exact keeps more than
    2**-39 away from what is half-way between two numbers of fp32.
    """
    return (length.double() / size).float()


def _root(x: Tensor) -> Tensor:
    """Square root, rounded correctly to fp32: torch's own on the CPU often is not, and a last bit moves windows."""
    return x.double().sqrt().float()


def place_windows(
    image_size: tuple[int, int],
    pos: Tensor,
    sample_size: Tensor,
    output_size: tuple[int, int],
    steady: bool = False,
) -> DeviceWindow:
    """The rectangles of `sample_size` (B, 2) about `pos` (B, 2), both fp32, kept inside as `crop.place_window` does."""
    size, output = _pair(image_size, sample_size), _pair(output_size, sample_size)
    shrink = (sample_size / size).amin(1, keepdim=True)
    tolerance = float(SIZE_TOLERANCE)
    shrunk = sample_size / shrink
    shrunk = shrunk * tolerance if steady else shrunk
    sample = torch.where(shrink > 1, shrunk, sample_size * tolerance).trunc()
    centre = pos.trunc().long()
    stride = ((sample / output).amin(1, keepdim=True) - 0.1).trunc().long().clamp(min=1)
    sample = sample / stride
    offset = centre.remainder(stride)
    centre = (centre - offset).div(stride, rounding_mode="floor")
    grid = -(offset - size.long()).div(stride, rounding_mode="floor")
    length = sample.round().clamp(min=2).long()
    start = centre - (length - 1).div(2, rounding_mode="floor")
    stop = centre + length.div(2, rounding_mode="floor") + 1
    shift = (-start).clamp(min=0) - (stop - grid).clamp(min=0)
    start, stop = start + shift, stop + shift
    outside = ((-start).clamp(min=0) + (stop - grid).clamp(min=0)).div(2, rounding_mode="floor")
    shift = torch.where(outside > 0, -start - outside, 0)
    return DeviceWindow(start + shift, stop + shift, stride, offset)


def _grid_sizes(window: DeviceWindow, image_size: tuple[int, int]) -> Tensor:
    """Pixels (B, 2) of the frame's thinned grid."""
    size = _pair(image_size, window.start)
    return -(window.offset - size).div(window.stride, rounding_mode="floor")


def _bilinear_taps(length: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Source indices and the second one's share, (B, size), of `length` (B,) pixels resized to `size`."""
    i = torch.arange(size, device=length.device, dtype=torch.float32)
    scale = ratio(length, size)
    source = ((i + 0.5) * scale[:, None] - 0.5).clamp(min=0)
    first = source.floor()
    last = (length - 1)[:, None]
    return first.long().minimum(last), (first.long() + 1).minimum(last), source - first


def cut_images(frames: Tensor, video: Tensor, window: DeviceWindow, output_size: tuple[int, int]) -> Tensor:
    """Crops (B, 3, *output_size) fp32, bilinear, the frame's border repeated outside.

    Args:
        frames: (V, H, W, 3) uint8, one of each video.
        video: whole numbers (B,), which frame an object is in.
        window: the rectangles.
        output_size: (height, width) of the crops.
    """
    height, width = frames.shape[1:3]
    grid = _grid_sizes(window, (height, width))
    lengths = window.stop - window.start
    taps = []
    for axis in (0, 1):
        first, second, share = _bilinear_taps(lengths[:, axis], output_size[axis])
        start, last = window.start[:, axis, None], grid[:, axis, None] - 1
        offset = window.offset[:, axis, None]
        indices = [(index + start).clamp(min=0).minimum(last) * window.stride + offset for index in (first, second)]
        taps.append((*indices, share))
    (row0, row1, down), (column0, column1, right) = taps
    down, right = down[:, :, None, None], right[:, None, :, None]
    pixels = frames.reshape(-1, frames.shape[3])
    first_pixel = (video * (height * width))[:, None, None]

    def at(rows: Tensor, columns: Tensor) -> Tensor:
        return pixels[first_pixel + rows[:, :, None] * width + columns[:, None, :]].float()

    top = at(row0, column0) * (1 - right) + at(row0, column1) * right
    bottom = at(row1, column0) * (1 - right) + at(row1, column1) * right
    return (top * (1 - down) + bottom * down).permute(0, 3, 1, 2)


def cut_masks(masks: Tensor, window: DeviceWindow, output_size: tuple[int, int]) -> Tensor:
    """Probability maps (B, H, W) fp32 -> crops (B, 1, *output_size), nearest, zeros outside."""
    height, width = masks.shape[1:]
    grid = _grid_sizes(window, (height, width))
    lengths = window.stop - window.start
    places, insides = [], []
    for axis in (0, 1):
        i = torch.arange(output_size[axis], device=masks.device, dtype=torch.float32)
        scale = ratio(lengths[:, axis], output_size[axis])
        index = (i * scale[:, None]).floor().long().minimum(lengths[:, axis, None] - 1) + window.start[:, axis, None]
        insides.append((index >= 0) & (index < grid[:, axis, None]))
        places.append(
            index.clamp(min=0).minimum(grid[:, axis, None] - 1) * window.stride + window.offset[:, axis, None]
        )
    flat = (places[0][:, :, None] * width + places[1][:, None, :]).flatten(1)
    values = masks.flatten(1).gather(1, flat).unflatten(1, output_size)
    inside = insides[0][:, :, None] & insides[1][:, None, :]
    return torch.where(inside, values, 0.0)[:, None]


def paste_logits(
    logits: Tensor, window: DeviceWindow, image_size: tuple[int, int], resize: ScoreResize = "given"
) -> Tensor:
    """Logits (B, 1, h, w) of crops -> scores in the frame (B, H, W), `OUTSIDE` where the crop does not reach.

    The released tracker's half-pixel offset and truncation are kept; for `resize` see `crop.paste_scores`.
    """
    crop_size = (logits.shape[2], logits.shape[3])
    start, stop = window.start * window.stride, window.stop * window.stride
    sample_pos = 0.5 * (start + stop - 1).float()
    crop = _pair(crop_size, sample_pos)
    scale = _root(((stop - start).float() / crop).prod(1))
    sizes = (crop.double() * scale.double()[:, None]).floor()
    place = (sample_pos - (0.5 * sizes).float()).trunc().long()
    taps, insides = [], []
    for axis in (0, 1):
        n, length = crop_size[axis], sizes[:, axis, None]
        i = torch.arange(image_size[axis], device=logits.device)[None] - place[:, axis, None]
        # With the given scale, an axis whose length stays the same is copied.
        given = torch.where(length == n, 1.0, scale.double()[:, None])
        step = length / n if resize == "ratio" else given
        source = ((i.double() + 0.5) / step - 0.5).float().clamp(min=0)
        first = source.floor()
        taps.append((first.long().clamp(max=n - 1), (first.long() + 1).clamp(max=n - 1), source - first))
        insides.append((i >= 0) & (i < length))
    (row0, row1, down), (column0, column1, right) = taps
    down, right = down[:, :, None], right[:, None, :]
    flat = logits.flatten(1)

    def at(rows: Tensor, columns: Tensor) -> Tensor:
        index = (rows[:, :, None] * crop_size[1] + columns[:, None, :]).flatten(1)
        return flat.gather(1, index).unflatten(1, image_size)

    top = at(row0, column0) * (1 - right) + at(row0, column1) * right
    bottom = at(row1, column0) * (1 - right) + at(row1, column1) * right
    inside = insides[0][:, :, None] & insides[1][:, None, :]
    return torch.where(inside, top * (1 - down) + bottom * down, OUTSIDE)


def soft_aggregation(scores: Tensor) -> Tensor:
    """Scores (..., K, H, W) of a video's objects -> merged probabilities (..., K + 1, H, W), the background first.

    An object whose score is `OUTSIDE` everywhere changes nothing, so that videos with fewer objects may be filled up.
    """
    complement = 1 - 1 / (1 + torch.exp(-scores))
    background = complement.prod(-3, keepdim=True).clamp(1e-7, 1 - 1e-7)
    joined = torch.cat((torch.log(background / (1 - background)), scores), dim=-3)
    return torch.softmax(joined, dim=-3)


def update_state(
    probability: Tensor, pos: Tensor, target_scale: Tensor, base_target_size: Tensor, min_area: float = MIN_AREA
) -> tuple[Tensor, Tensor]:
    """Position (B, 2) and scale (B, 1) after probability maps (B, H, W); below a mass of `min_area` they stay.

    Sums are taken in fp64, as a window's place depends on a size's last bits.
    """
    marginals = (probability.sum(2, dtype=torch.float64), probability.sum(1, dtype=torch.float64))
    total = marginals[0].sum(1)
    divisor = total.clamp(min=1e-30)
    centres, deviations = [], []
    for marginal in marginals:
        index = torch.arange(marginal.shape[1], device=marginal.device, dtype=torch.float64)
        centre = (index * marginal).sum(1) / divisor
        centres.append(centre)
        deviations.append((((index - centre[:, None]).square() * marginal).sum(1) / divisor).sqrt())
    size = (SIZE_IN_DEVIATIONS * torch.stack(deviations, 1)).float()
    scale = _root(size.prod(1, keepdim=True) / base_target_size.prod(1, keepdim=True))
    least, most = (target_scale * limit for limit in SCALE_CHANGE)
    present = ((total >= min_area) & (total > 0))[:, None]
    moved = torch.stack(centres, 1).float()
    return torch.where(present, moved, pos), torch.where(present, scale.maximum(least).minimum(most), target_scale)


def search_windows(
    pos: Tensor,
    target_scale: Tensor,
    image_size: tuple[int, int],
    crop_size: tuple[int, int],
    stride: int,
    filter_size: int,
    windows: Windows = "released",
) -> DeviceWindow:
    """The windows about targets at `pos` (B, 2), `target_scale` (B, 1); see `tracker.ObjectTracker`."""
    halves = [(n // stride + filter_size) % 2 * (stride // 2) for n in crop_size]
    offset = _pair((halves[0], halves[1]), pos)
    crop = _pair(crop_size, pos)
    return place_windows(
        image_size, pos + offset * target_scale, target_scale * crop, crop_size, steady=windows == "steady"
    )


def fixed_windows(window: Sequence[int], like: Tensor) -> DeviceWindow:
    """One window for all of B objects, of which `like` (B, 2) has a pair of anything.

    Args:
        window: top, left, bottom, right, stride, and the grid's first row and column.
    """
    top, left, bottom, right, stride, row, column = window
    whole = like.long()
    start, stop, offset = (
        _pair(pair, whole).expand_as(whole) for pair in ((top, left), (bottom, right), (row, column))
    )
    return DeviceWindow(start, stop, torch.full_like(whole[:, :1], stride), offset)


def insert_sample(
    weights: Tensor,
    stored: Tensor,
    previous: Tensor,
    kept: Tensor,
    rate: float,
    largest_share: float,
    kept_share: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make room for a new sample, as `sample_weights.SampleWeights.insert` does.

    Args:
        weights: (B, N).
        stored: slots in use (B, 1), whole numbers.
        previous: the slot inserted last (B, 1), -1 for none.
        kept: (B, N), 1 for slots that are never taken: the first and the corrections'.
        rate: share of a new sample.
        largest_share: what none of the kept ones needs more than.
        kept_share: what they have together at least.

    Returns:
        weights, stored, the slot (B, 1), and the slot as one-hot (B, N) fp32.
    """
    capacity = weights.shape[1]
    smallest = (weights + 4 * kept).argmin(1, keepdim=True)
    slot = torch.where(stored < capacity, stored, smallest)
    one_hot = (torch.arange(capacity, device=weights.device) == slot).float()
    first = previous < 0
    keep = _number(1 - rate, weights)
    known = weights.gather(1, previous.clamp(min=0)) / keep
    value = torch.where(first, torch.full_like(known, rate), known)
    weights = torch.where(first, weights / keep, weights)
    weights = torch.where(one_hot > 0, value, weights)
    weights = weights / weights.sum(1, keepdim=True)
    share = (_number(kept_share, weights) / kept.sum(1, keepdim=True)).clamp(max=largest_share)
    low = (kept > 0) & (weights < share)
    count = low.sum(1, keepdim=True)
    rest = torch.where(low, 0.0, weights).sum(1, keepdim=True) + share * count
    weights = torch.where(count > 0, torch.where(low, share, weights / rest), weights)
    return weights, stored.maximum(slot + 1), slot, one_hot
