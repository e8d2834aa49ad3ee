"""The parity gate's figures for people."""

from __future__ import annotations

from rich.table import Table

from ...runtime.manifest import Parity


def parity_table(parity: Parity) -> Table:
    """One row per graph, and the closed loop below."""
    loop = parity.closed_loop
    table = Table(
        title="against the PyTorch network",
        caption=f"closed loop over {loop.frames} frames: IoU mean {loop.mean_iou:.4f}, smallest {loop.min_iou:.4f}",
    )
    table.add_column("graph")
    for title in ("max abs", "rel L2", "cosine"):
        table.add_column(title, justify="right")
    for graph in parity.graphs:
        table.add_row(graph.graph, f"{graph.max_abs:.1e}", f"{graph.rel_l2:.1e}", f"{graph.cosine:.8f}")
    return table
