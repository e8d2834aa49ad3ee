"""Motion of things between frames: affine maps and thin-plate splines, as sampling positions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_COARSE = 16
"""Pixels per cell of the grid that a spline is evaluated on; it is smooth, the rest is interpolated."""


def rotation(angle: Tensor, scale: Tensor, aspect: Tensor, mirror: Tensor) -> Tensor:
    """From an object's own axes to the crop's: (...,) each -> (..., 2, 2), in (x, y); mirror is -1 or 1."""
    cos, sin = angle.cos(), angle.sin()
    right = torch.stack((cos, sin), -1) * (scale * aspect * mirror)[..., None]
    down = torch.stack((-sin, cos), -1) * (scale / aspect)[..., None]
    return torch.stack((right, down), -1)


def pixel_grid(size: tuple[int, int], device: torch.device) -> Tensor:
    """(H, W, 2) positions (x, y) of the pixels' centres."""
    rows, columns = (torch.arange(n, device=device, dtype=torch.float32) + 0.5 for n in size)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((x, y), -1)


class ThinPlate:
    """Thin-plate splines over a crop, through control points on a regular grid (Bookstein 1989).

    The map from displacements at the control points to displacements anywhere is linear and computed once.
    """

    def __init__(self, size: tuple[int, int], points: tuple[int, int], device: torch.device) -> None:
        self.size = size
        height, width = size
        control = pixel_grid(points, torch.device("cpu")).reshape(-1, 2).double() / torch.tensor(points[::-1])
        control = control * torch.tensor((width, height)) / height
        cells = (max(height // _COARSE, 2), max(width // _COARSE, 2))
        places = pixel_grid(cells, torch.device("cpu")).reshape(-1, 2).double() / torch.tensor(cells[::-1])
        places = places * torch.tensor((width, height)) / height
        count = len(control)
        system = torch.zeros(count + 3, count + 3, dtype=torch.float64)
        system[:count, :count] = _kernel(control, control)
        system[:count, count:] = F.pad(control, (1, 0), value=1.0)
        system[count:, :count] = system[:count, count:].T
        solve = torch.linalg.inv(system)[:, :count]
        basis = torch.cat((_kernel(places, control), F.pad(places, (1, 0), value=1.0)), dim=1)
        self.count = count
        self._cells = cells
        self._matrix = (basis @ solve).float().to(device)

    def __call__(self, displacements: Tensor) -> Tensor:
        """Displacements (x, y) of the control points (..., count, 2), in pixels -> of all pixels (..., H, W, 2)."""
        lead = displacements.shape[:-2]
        coarse = (self._matrix @ displacements.reshape(-1, self.count, 2)).transpose(1, 2).unflatten(2, self._cells)
        fine = F.interpolate(coarse, self.size, mode="bilinear", align_corners=False)
        return fine.permute(0, 2, 3, 1).reshape(*lead, *self.size, 2)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    squared = (a[:, None] - b[None]).square().sum(-1)
    return 0.5 * squared * squared.clamp(min=1e-12).log()


def sample(planes: Tensor, positions: Tensor, padding: str) -> Tensor:
    """Bilinear samples: planes (C, h, w), positions (N, H, W, 2) as (x, y) in pixels -> (N, C, H, W).

    Args:
        planes: one picture, floating point.
        positions: a pixel's centre lies half a pixel from its corner.
        padding: `zeros`, `border` or `reflection` outside of the picture.
    """
    size = positions.new_tensor((planes.shape[2], planes.shape[1]))
    grid = positions * (2 / size) - 1
    repeated = planes[None].expand(len(positions), -1, -1, -1)
    return F.grid_sample(repeated, grid, mode="bilinear", padding_mode=padding, align_corners=False)
