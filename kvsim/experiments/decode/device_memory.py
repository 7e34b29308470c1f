"""What a cell takes of each device: weights, keys and values, page summaries and activations."""

from __future__ import annotations

from kvsim.experiments.decode.cells import Cell
from kvsim.experiments.decode.entry import DeviceParts, DeviceRow
from kvsim.policies.baselines import HfOffloaded
from kvsim.profile.hop import hop_of
from kvsim.scenario.models.devices import device_weight_bytes
from kvsim.scenario.shapes import BITSANDBYTES
from kvsim.units import format_bytes, format_seconds


def device_rows(cell: Cell, *, has_summaries: bool) -> list[DeviceRow]:
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
    rows: list[DeviceRow] = []
    for place, setting in enumerate(cell.device_settings):
        held, total_pages = setting.capacity_pages, setting.grid.num_pages
        if cell.is_peer:
            held = total_pages * min(HfOffloaded.device_layers, shape.paged_layers) // shape.paged_layers
        parts: DeviceParts = {
            "kv_device_bytes": held * cell.page_bytes + batch * shape.unpaged_bytes(cell.extent.context_tokens),
            "weights_bytes": weights[place],
            "activation_bytes": shape.activation_bytes(step_tokens, batch),
            "summary_bytes": shape.summary_bytes(total_pages) if has_summaries else 0,
        }
        device_bytes = bytes_of(parts)
        fits = device_bytes <= cell.device_memory_bytes
        row: DeviceRow = {
            "device": place,
            "layers": len(layers[place]),
            "pages": held,
            **parts,
            "device_bytes": device_bytes,
            "fits": fits,
        }
        rows.append(row)
    return rows


def fullest(rows: list[DeviceRow]) -> DeviceParts:
    """Return the bytes by part of the device that holds most."""
    row = max(rows, key=lambda own: own["device_bytes"])
    return {
        "kv_device_bytes": row["kv_device_bytes"],
        "weights_bytes": row["weights_bytes"],
        "activation_bytes": row["activation_bytes"],
        "summary_bytes": row["summary_bytes"],
    }


def bytes_of(parts: DeviceParts) -> int:
    """Return the sum of all parts."""
    return parts["kv_device_bytes"] + parts["weights_bytes"] + parts["activation_bytes"] + parts["summary_bytes"]


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
