"""What the host thread and the link really did when: the spans of an instrumented run, named as the simulator's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from kvsim.engine.links.base import Transfer
from kvsim.engine.paged.decode import DecodeResult
from kvsim.engine.paged.stamps import LAYER_PARTS
from kvsim.types import Lane, PageGrid, Span

COMPUTE_NAMES = {"speculate": "select", "sync": "host", "choose": "select", "decide": "host", "submit": "host"}
"""Parts of a layer that the compute lane shows under another name: that of the column they add to."""
HOST_PARTS = ("sync", "decide", "submit")


def spans_of(result: DecodeResult, grid: PageGrid) -> list[Span]:
    """Return the spans of a stamped run on a machine whose host is its compute stream, from its first stamp on.

    Where the host synchronises, decides or submits, the compute lane shows it idle for the host's sake.
    """
    assert result.stamps is not None  # the caller asked for a stamped run
    spans = []
    for step, edges_s in enumerate(result.stamps.edges_s(grid.num_layers).tolist()):
        spans += _step_spans(step, edges_s, grid.num_layers)
    return spans + [_copy_span(transfer, grid, result.stamps.origin_s) for transfer in result.transfers]


def _step_spans(step: int, edges_s: Sequence[float], num_layers: int) -> list[Span]:
    parts: list[tuple[str, int | None]] = [("embed", None)]
    parts += [(name, layer) for layer in range(num_layers) for name in LAYER_PARTS]
    parts += [("head", None)]
    spans = []
    for (name, layer), (start_s, end_s) in zip(parts, pairwise(edges_s), strict=True):
        lanes: list[tuple[Lane, str]] = [("compute", COMPUTE_NAMES.get(name, name))]
        if name in HOST_PARTS:
            lanes.append(("host", name))
        spans += [
            Span(lane=lane, name=shown, start_s=start_s, end_s=end_s, step=step, layer=layer) for lane, shown in lanes
        ]
    return spans


def _copy_span(transfer: Transfer, grid: PageGrid, origin_s: float) -> Span:
    return Span(
        lane="to host" if transfer.kind == "write-back" else "to device",
        name=transfer.kind,
        start_s=transfer.start_s - origin_s,
        end_s=transfer.end_s - origin_s,
        step=transfer.step,
        layer=int(grid.layer_of(transfer.pages[:1])[0]),
        num_pages=transfer.pages.size,
        submitted_s=transfer.submitted_s - origin_s,
    )
