"""The parity gate's figures for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from ...runtime.manifest import GraphParity, Parity


def parity_table(parity: Parity) -> Table:
    """One row per graph, and the closed loop below."""
    loop = parity.closed_loop
    table = graph_table(parity.graphs, "against the PyTorch network")
    table.caption = f"closed loop over {loop.frames} frames: IoU mean {loop.mean_iou:.4f}, smallest {loop.min_iou:.4f}"
    return table


def graph_table(graphs: Iterable[GraphParity], title: str) -> Table:
    """One row per graph."""
    table = Table(title=title)
    table.add_column("graph")
    for heading in ("max abs", "rel L2", "cosine"):
        table.add_column(heading, justify="right")
    for graph in graphs:
        table.add_row(graph.graph, f"{graph.max_abs:.1e}", f"{graph.rel_l2:.1e}", f"{graph.cosine:.8f}")
    return table
