"""What a cell takes of each device: weights, keys and values, page summaries and activations."""

from __future__ import annotations

from typing import Any

from kvsim.experiments.decode.cells import Cell
from kvsim.policies.baselines import HfOffloaded
from kvsim.profile.hop import hop_of
from kvsim.scenario.models.devices import device_weight_bytes
from kvsim.scenario.shapes import BITSANDBYTES
from kvsim.units import format_bytes, format_seconds

PARTS = ("kv_device_bytes", "weights_bytes", "activation_bytes", "summary_bytes")


def device_rows(cell: Cell, *, has_summaries: bool) -> list[dict[str, Any]]:
    """Return the bytes of each device by part, and whether they fit.

    Parameters
    ----------
    has_summaries
        Whether the selector scores pages by summaries of their keys.
    """
    scenario, shape = cell.scenario, cell.shape
    batch, packing = scenario.run.batch, scenario.model.quantisation
    step_tokens = max(batch, scenario.run.prefill_chunk_tokens)
    layers = cell.device_layers if len(cell.device_layers) > 1 else (range(shape.num_layers),)
    weights = device_weight_bytes(
        shape.spec, BITSANDBYTES[packing] if packing else shape.weights or shape.dtype, layers
    )
    rows = []
    for place, setting in enumerate(cell.device_settings):
        held, total_pages = setting.capacity_pages, setting.grid.num_pages
        if cell.is_peer:
            held = total_pages * min(HfOffloaded.device_layers, shape.paged_layers) // shape.paged_layers
        row = {
            "kv_device_bytes": held * cell.page_bytes + batch * shape.unpaged_bytes(cell.extent.context_tokens),
            "weights_bytes": weights[place],
            "activation_bytes": shape.activation_bytes(step_tokens, batch),
            "summary_bytes": shape.summary_bytes(total_pages) if has_summaries else 0,
        }
        device_bytes = sum(row.values())
        fits = device_bytes <= cell.device_memory_bytes
        first = {"device": place, "layers": len(layers[place]), "pages": held}
        rows.append({**first, **row, "device_bytes": device_bytes, "fits": fits})
    return rows


def fullest(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Return the bytes by part of the device that holds most."""
    row = max(rows, key=lambda own: int(own["device_bytes"]))
    return {name: row[name] for name in PARTS}


def note_of(cell: Cell) -> str | None:
    """Return a line about the way from device to device; None where all layers lie on one."""
    layers = cell.device_layers
    if len(layers) == 1:
        return None
    counts = ", ".join(str(len(own)) for own in layers)
    hidden_bytes = cell.hidden_bytes
    hop = hop_of(cell.profile, hidden_bytes)
    way = (
        f"profile {cell.profile.name} has no number for the hidden state's way between them, and none is charged"
        if hop is None
        else f"the hidden state's way to the next, {format_bytes(hidden_bytes)} over the host, takes "
        f"{format_seconds(hop.transfer_s + hop.submit_s)}"
    )
    return (
        f"The layers lie on {len(layers)} devices ({counts}), each with its own budget, link and policy; memory is "
        f"that of the fullest, and {way}."
    )
