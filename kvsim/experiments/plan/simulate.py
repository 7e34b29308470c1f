"""The options that decode simulates, as cells of one scenario, and more cards from the cell that keeps everything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kvsim.experiments.decode.cells import Cell, resolve
from kvsim.experiments.decode.simulate import build_cells, check_cell, simulate_cell, sources_of
from kvsim.experiments.decode.summarise import simulated_entry
from kvsim.experiments.plan.choices import PAGE_TOKENS, Choices
from kvsim.experiments.plan.memory import Memory
from kvsim.experiments.plan.request import Request
from kvsim.experiments.plan.result import Option
from kvsim.experiments.types import Job, ignore
from kvsim.policies.devices import split_layers
from kvsim.profile.hop import hop_of
from kvsim.profile.profile import Profile
from kvsim.scenario.decode import Scenario
from kvsim.scenario.models.devices import device_kv_bytes, device_weight_bytes
from kvsim.units import format_bytes

MAX_CARDS = 64


def simulated_options(request: Request, scenario: Scenario, choices: Choices, memory: Memory) -> list[Option]:
    """Return the options of a plan in the order of its table.

    Raises
    ------
    KvsimError
        If an estimate cannot price the model in one of its formats.
    """
    sources = sources_of(Job())
    cells = resolve(build_cells(scenario, Job(), sources), check_cell(sources))
    options = []
    for number, cell in enumerate(cells):
        if _is_shown(cell, choices):
            entry = simulated_entry(cell, simulate_cell(cell, sources, ignore, path="events"))
            options.append(_option(request, cell, entry, number))
            if number == 0 and not memory.fits:
                options += more_cards(request, options[0], memory, cell.profile)
    return sorted(options, key=_place)


def _is_shown(cell: Cell, choices: Choices) -> bool:
    """Whether a cell is an option of its own: not one that differs from another in what its policy does not read."""
    scenario = cell.scenario
    is_first_budget = scenario.budget.bytes in (None, *choices.budgets_bytes[:1])
    is_first_k = scenario.selector.k_pages in (None, 1, *choices.ks_pages[:1])
    if cell.holds_everything:
        return is_first_budget and is_first_k
    has_paged_formats = (scenario.model.weights, scenario.model.kv) == (choices.paged_weights, choices.kvs[0])
    return has_paged_formats and (cell.choice.name == "lru" or (is_first_budget and is_first_k))


def _option(request: Request, cell: Cell, entry: dict[str, Any], number: int) -> Option:
    device_bytes, host_bytes = entry["device_bytes"] + request.reserve_bytes, entry["host_bytes"]
    recall_frac = entry["mass_recall_frac"] if cell.choice.name == "lru" else None
    host_fits = request.host_memory_bytes is None or host_bytes <= request.host_memory_bytes
    weights, kv = cell.shape.weights or cell.shape.dtype, cell.shape.kv or cell.shape.dtype
    return Option(
        name=_name(request, cell, weights, kv),
        weights=weights,
        kv=kv,
        num_cards=1,
        device_bytes=device_bytes,
        host_bytes=host_bytes,
        fits=device_bytes <= request.usable_bytes and host_fits,
        tpot_s=entry["tpot_mean_s"],
        tpot_interval_s=entry["tpot_interval_s"],
        tokens_per_s=entry["tokens_per_s"],
        recall_frac=recall_frac,
        basis="estimated",
        cell=number,
    )


def _name(request: Request, cell: Cell, weights: str, kv: str) -> str:
    formats = format_words(request, weights, kv)
    if cell.holds_everything:
        return formats or "all on the card"
    if cell.choice.name == "stream":
        return ", ".join(filter(None, ("exact attention, KV streamed from host", formats)))
    tokens = (cell.scenario.selector.k_pages or 0) * PAGE_TOKENS
    held = format_bytes(cell.setting.capacity_pages * cell.page_bytes)
    return ", ".join(filter(None, (f"top {tokens:,} tokens, {held} of KV on the card", formats)))


def format_words(request: Request, weights: str, kv: str) -> str:
    """Return what differs from the formats that were asked for, in words; empty where nothing does."""
    words = []
    if weights != (request.weights or request.own_weights()):
        words.append(f"weights in {weights}")
    if kv != (request.kv or request.dtype):
        words.append(f"KV in {kv}")
    return ", ".join(words)


def _place(option: Option) -> tuple[int, float]:
    """Return where an option stands in the table: what keeps everything, streams, pages, takes more cards."""
    if option.num_cards > 1:
        return 3, option.num_cards
    if option.recall_frac is not None:
        return 2, -option.recall_frac
    return int(option.host_bytes > 0), 0.0


def more_cards(request: Request, whole: Option, memory: Memory, profile: Profile | None) -> Iterator[Option]:
    """Yield the fewest cards that hold everything with the layers split; nothing where not even many do.

    A token passes the cards one after the other, so a step takes as long as on one card that held everything, and the
    hidden state's way from card to card besides: to the host and on, over the profile's link. `device_bytes` is that of
    the fullest card.
    """
    fixed_bytes = memory.activation_bytes + memory.reserve_bytes
    split = _fewest_cards(request, memory, memory.usable_bytes - fixed_bytes)
    if split is None:
        return
    num_cards, most_bytes = split
    hop = None if profile is None else hop_of(profile, 2 * request.spec.hidden_size * request.batch)
    hop_s = 0.0 if hop is None else hop.transfer_s + hop.submit_s
    more_s = (num_cards - 1) * hop_s
    low_s, high_s = whole.tpot_interval_s
    tpot_s = whole.tpot_s + more_s
    yield Option(
        name=f"{num_cards} cards, layers split",
        weights=whole.weights,
        kv=whole.kv,
        num_cards=num_cards,
        device_bytes=fixed_bytes + most_bytes,
        host_bytes=0,
        fits=True,
        tpot_s=tpot_s,
        tpot_interval_s=(low_s + more_s, high_s + more_s),
        tokens_per_s=request.batch / tpot_s,
        recall_frac=None,
        basis=whole.basis,
        cell=None,
    )


def _fewest_cards(request: Request, memory: Memory, room_bytes: int) -> tuple[int, int] | None:
    """Return the fewest cards of equal shares of the layers that each hold theirs, and what the fullest then holds."""
    spec = request.spec
    weights = request.published_or(request.weights)
    for num_cards in range(2, min(MAX_CARDS, len(spec.layers)) + 1):
        layers = split_layers(len(spec.layers), num_cards)
        held = zip(
            device_weight_bytes(spec, weights, layers),
            device_kv_bytes(spec, request.context_tokens, memory.kv, layers),
            strict=True,
        )
        most_bytes = max(weights_bytes + request.batch * kv_bytes for weights_bytes, kv_bytes in held)
        if most_bytes <= room_bytes:
            return num_cards, most_bytes
    return None
