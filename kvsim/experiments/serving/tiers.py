"""The tiers of a scenario: how many chunks they hold, and how long it takes to move or to compute them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from kvsim.caches.blocks import BlockTables
from kvsim.caches.tiers import ChunkCache
from kvsim.caches.tiers.offload import Kind, Offload
from kvsim.errors import CapacityError
from kvsim.experiments.base import shape_of
from kvsim.experiments.serving.costs import Memory, Platform
from kvsim.experiments.serving.scenario import Serving, TierChoice
from kvsim.profile.serving import ServingCosts
from kvsim.sim.serving import Served
from kvsim.units import format_bytes


def make_offload(
    scenario: Serving, platform: Platform, blocks: BlockTables, chains: Sequence[Sequence[int]]
) -> Offload:
    """Return the tiers below the device, empty."""
    choice, memory = _choice_of(scenario), platform.memory
    loads = transfer_times(scenario, platform)["load"]
    return Offload(
        blocks,
        chains,
        chunk_blocks=choice.chunk_blocks,
        host=ChunkCache(num_chunks(scenario, memory, choice.host_memory), choice.order),
        disk=None
        if choice.disk_memory is None
        else ChunkCache(num_chunks(scenario, memory, choice.disk_memory), choice.order),
        writes=choice.writes,
        is_worth_loading=None
        if choice.loads == "always"
        else _break_even(platform.costs, loads, block_tokens=scenario.engine.block_size),
    )


def check_tiers(scenario: Serving, memory: Memory) -> None:
    """Refuse a tier that does not hold one chunk.

    Raises
    ------
    CapacityError
        Naming it.
    """
    if scenario.tiers is None:
        return
    for name in ("host_memory", "disk_memory"):
        size_bytes = getattr(scenario.tiers, name)
        if size_bytes is not None and num_chunks(scenario, memory, size_bytes) < 1:
            chunk_bytes = scenario.tiers.chunk_blocks * memory.block_bytes
            raise CapacityError(
                f"{scenario.name}: tiers.{name} = {format_bytes(size_bytes)} does not hold one chunk of "
                f"{scenario.tiers.chunk_blocks} blocks ({format_bytes(chunk_bytes)})"
            )


def num_chunks(scenario: Serving, memory: Memory, size_bytes: int) -> int:
    """Return the chunks that fit into a tier."""
    return size_bytes // (_choice_of(scenario).chunk_blocks * memory.block_bytes)


def transfer_times(scenario: Serving, platform: Platform) -> dict[Kind, Callable[[int], float]]:
    """Return the seconds of so many blocks for each kind of transfer.

    To and from the host a block is a piece for each layer, as vLLM keeps it; the disk takes its bytes in one stream.
    """
    choice, shape = _choice_of(scenario), shape_of(scenario)
    piece_bytes = shape.page_bytes(scenario.engine.block_size)

    def over(link: Callable[[int, int], float]) -> Callable[[int], float]:
        return lambda blocks: link(blocks * shape.num_layers, piece_bytes) / choice.link_speed

    def at(bandwidth: int) -> Callable[[int], float]:
        return lambda blocks: choice.disk_latency_s + blocks * platform.memory.block_bytes / bandwidth

    times: dict[Kind, Callable[[int], float]] = {
        "store": over(platform.profile.link.to_host.transfer_s),
        "load": over(platform.profile.link.to_device.transfer_s),
    }
    if choice.disk_write_bandwidth is not None and choice.disk_read_bandwidth is not None:
        times |= {"demote": at(choice.disk_write_bandwidth), "promote": at(choice.disk_read_bandwidth)}
    return times


def tier_figures(served: Served, rows: Mapping[str, NDArray[Any]], prompt_tokens: int) -> dict[str, float]:
    """Return what the tiers and their links did; nothing where there are none."""
    if "loaded_tokens" not in rows:
        return {}
    loaded = int(rows["loaded_tokens"].sum())
    figures: dict[str, float] = {
        "device_hit_frac": (int(rows["hit_tokens"].sum()) - loaded) / prompt_tokens,
        "loaded_frac": loaded / prompt_tokens,
    }
    for kind, link in served.links.items():
        figures |= {f"{kind}_blocks": link.num_blocks, f"{kind}_busy_frac": link.busy_s / max(served.end_s, 1e-12)}
    return figures


def _choice_of(scenario: Serving) -> TierChoice:
    assert scenario.tiers is not None, "asked for tiers of a scenario without"
    return scenario.tiers


def _break_even(
    costs: ServingCosts, load_s: Callable[[int], float], *, block_tokens: int
) -> Callable[[int, int], bool]:
    """Return whether loading tokens behind hits takes less time than computing them beside whatever else runs."""

    def is_worth_loading(hit_tokens: int, tokens: int) -> bool:
        pairs = tokens * hit_tokens + tokens * (tokens + 1) / 2
        base_s = costs.tokens.at_s(1)
        compute_s = costs.tokens.at_s(1 + tokens) - base_s + costs.pairs.at_s(pairs)
        return load_s(-(-tokens // block_tokens)) < compute_s

    return is_worth_loading
