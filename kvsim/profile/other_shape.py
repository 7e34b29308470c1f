"""A profile used for another model than it was made for: whose times those are, what they cannot be, how they scale.

``profile.allow_other_shape`` takes the times as they are, says so, and refuses those that the profile itself rules
out: a step moves its weights and keys, a call computes its products, and neither goes faster than the fastest that the
profile's own tables move or compute. ``profile.scale = "work"`` scales each table by what it moves or computes instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

from kvsim.profile.profile import Profile, SegmentCost
from kvsim.profile.tables import CostTable
from kvsim.profile.work import call_bytes, call_flop, read_weights_bytes, segment_bytes
from kvsim.scenario.shapes import ModelShape, Quantisation
from kvsim.units import format_bytes, format_seconds

Scale: TypeAlias = Literal["work"]

_CALLS = "caches.forward@"
_BY_TOKEN = ("restore.", "store.")
_OVER_LINK = (".host",)
_ROUNDING = 1e-9


def is_of_another(profile: Profile, shape: ModelShape, quantisation: Quantisation | None = None) -> bool:
    """Return whether a profile was made for another model than one of `shape`, its weights packed so."""
    return profile.shape != shape or profile.quantisation != quantisation


def adapted(
    profile: Profile, shape: ModelShape, quantisation: Quantisation | None = None, *, scale: Scale | None = None
) -> Profile:
    """Return a profile for the use with another model; the same where it was made for this one.

    An emulated link has the bandwidth that is stated, so what crosses it takes this model's bytes. Without `scale`
    everything else stays what it is, the other model's (`whose_times`). With it each table of the device is multiplied
    by what it moves for this model over what it moves for its own: bytes of weights, of keys and values, of summaries.
    Calls of the whole model compute: they are multiplied by their operations, of numbers twice as wide twice. Launches
    by the host, decisions, the link and rows are counted in amounts that hold for any model.
    """
    if not is_of_another(profile, shape, quantisation):
        return profile
    caches = {name: _scaled_cache(name, table, profile, shape, scale) for name, table in profile.caches.items()}
    if scale is None:
        return profile.model_copy(update={"caches": caches})
    here, there = segment_bytes(shape, quantisation), segment_bytes(profile.shape, profile.quantisation)
    segments = {name: _scaled_segment(cost, here[name] / there[name]) for name, cost in profile.segments.items()}
    prefill = profile.prefill and _times(profile.prefill, _flop_ratio(profile, shape, batch=1))
    return profile.model_copy(
        update={
            "segments": segments,
            "caches": caches,
            "prefill": prefill,
            "shape": shape,
            "quantisation": quantisation,
            "scaled_from": in_words(profile, shape, quantisation)[0],
        }
    )


def made_for(shape: ModelShape, quantisation: Quantisation | None = None) -> str:
    """Return a model in a few words.

    Examples
    --------
    >>> from kvsim.scenario.shapes import SHAPES
    >>> made_for(SHAPES["llama-3-8b"])
    '32 layers of 4096 in bf16'
    """
    packed = f" with weights in {quantisation}" if quantisation else ""
    return f"{shape.num_layers} layers of {shape.hidden_size} in {shape.dtype}{packed}"


def in_words(profile: Profile, shape: ModelShape, quantisation: Quantisation | None = None) -> tuple[str, str]:
    """Return the model that a profile was made for and another one, with the sizes that differ where words are alike.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from kvsim.scenario.shapes import SHAPES
    >>> in_words(SimpleNamespace(shape=SHAPES["llama-3-8b"], quantisation=None), SHAPES["mistral-7b"])
    ('32 layers of 4096 in bf16 (vocab_size 128256)', '32 layers of 4096 in bf16 (vocab_size 32768)')
    """
    there, here = made_for(profile.shape, profile.quantisation), made_for(shape, quantisation)
    if there != here:
        return there, here
    names = [name for name in type(shape).model_fields if getattr(profile.shape, name) != getattr(shape, name)]
    own, other = (", ".join(f"{name} {getattr(one, name)}" for name in names) for one in (profile.shape, shape))
    return f"{there} ({own})", f"{here} ({other})"


def whose_times(profile: Profile, shape: ModelShape, quantisation: Quantisation | None = None) -> str | None:
    """Return a sentence that says whose times a result has where they are another model's; None where its own."""
    if profile.scaled_from is not None:
        return (
            f"Times are scaled, not measured: profile {profile.name} was made for {profile.scaled_from}, this model "
            f"has {made_for(shape, quantisation)}. Its tables were multiplied by the bytes that they move, "
            "and calls of the whole model by their operations (profile.scale). Trust memory and counts, take times for "
            "an estimate."
        )
    if not is_of_another(profile, shape, quantisation):
        return None
    there, here = in_words(profile, shape, quantisation)
    return (
        f"Times are another model's: profile {profile.name} was made for {there}, this model has {here} "
        '(profile.allow_other_shape). Trust memory and counts, not seconds; profile.scale = "work" scales them.'
    )


def times_of(profile: Profile) -> str:
    """Return whose times a profile has that is used for another model, for the line above a table."""
    if profile.scaled_from is not None:
        return f"times scaled from those of {profile.scaled_from}"
    return f"times of another model, {made_for(profile.shape, profile.quantisation)}"


def with_times_of(summary: Mapping[str, Any], notes: Mapping[str, str]) -> dict[str, Any]:
    """Return a summary that says whose times it has: first in its verdict, and as ``profile.times_of`` for its table.

    Parameters
    ----------
    notes
        Each sentence of `whose_times` and what `times_of` calls the same; where there is none, nothing changes.
    """
    if not notes:
        return dict(summary)
    profile = {**summary["profile"], "times_of": "; ".join(dict.fromkeys(notes.values()))}
    return {**summary, "profile": profile, "verdict": [*notes, *summary["verdict"]]}


def bandwidth_of(profile: Profile) -> tuple[float, str]:
    """Return the most bytes a second that a profile's own tables move, and the segment that does.

    The bytes of weights that a segment reads over its least time, or the keys and values of the most tokens attended
    to over the time they take, in the profile's own shape.
    """
    sizes = segment_bytes(profile.shape, profile.quantisation)
    least = [
        (name, sizes[name], min(map(min, profile.segments[name].device.time_s)))
        for name in ("attention_input", "attention_output", "head")
    ]
    attention = profile.segments["attention"].device
    if attention.amount == "tokens":
        least.append(("attention", attention.amounts[-1] * sizes["attention"], min(attention.time_s[-1])))
    rates = [(moved_bytes / time_s, name) for name, moved_bytes, time_s in least if time_s > 0]
    return max(rates, default=(float("inf"), "none"))


def step_problem(
    profile: Profile, shape: ModelShape, quantisation: Quantisation | None, *, read_tokens: int, batch: int
) -> str | None:
    """Return why a decode step by another model's times cannot be: it would take less than its bytes do.

    Parameters
    ----------
    read_tokens
        Tokens of the batch that each layer attends to.
    """
    if not is_of_another(profile, shape, quantisation):
        return None
    bytes_per_s, segment = bandwidth_of(profile)
    weights_bytes = read_weights_bytes(shape, quantisation)
    kv_bytes = read_tokens * shape.paged_layers * shape.page_bytes(1)
    floor_s = (weights_bytes + kv_bytes) / bytes_per_s
    parts = {name: profile.segments[name].device for name in profile.segments}
    layer_s = sum(parts[name].at_s(0, sequences=batch) for name in ("attention_input", "attention_output"))
    layer_s += parts["attention"].at_s(read_tokens, sequences=batch)
    step_s = shape.paged_layers * layer_s + sum(parts[name].at_s(0, sequences=batch) for name in ("embed", "head"))
    if step_s >= floor_s * (1 - _ROUNDING):
        return None
    return (
        f"{_other(profile, shape, quantisation)}: by its times a step computes for {format_seconds(step_s)}, but reads "
        f"{format_bytes(round(weights_bytes))} of weights and {format_bytes(round(kv_bytes))} of keys and values, "
        f"which take {format_seconds(floor_s)} at {bytes_per_s / 1e9:,.0f} GB/s, the most that its own tables move "
        f"({segment}); {_ADVICE}"
    )


def call_problem(
    profile: Profile,
    shape: ModelShape,
    table: CostTable,
    *,
    new_tokens: int,
    cached_tokens: int,
    batch: int = 1,
) -> str | None:
    """Return why a call of the whole model by another model's times cannot be: its bytes or operations take longer."""
    if not is_of_another(profile, shape):
        return None
    bytes_per_s, _ = bandwidth_of(profile)
    moved_bytes = call_bytes(shape, None, cached_tokens, batch)
    flop, speed = call_flop(shape, new_tokens, cached_tokens, batch), speed_of(profile)
    moved_s, computed_s = moved_bytes / bytes_per_s, flop / speed
    floor_s, call_s = max(moved_s, computed_s), table.at_s(new_tokens, cached_tokens=cached_tokens)
    if call_s >= floor_s * (1 - _ROUNDING):
        return None
    how = (
        f"reads {format_bytes(round(moved_bytes))} at {bytes_per_s / 1e9:,.0f} GB/s"
        if moved_s >= computed_s
        else f"computes {flop / 1e12:,.3g} TFLOP at {speed / 1e12:,.3g} TFLOP/s"
    )
    return (
        f"{_other(profile, shape, None)}: by its times a call on {new_tokens:,} new tokens takes "
        f"{format_seconds(call_s)}, but {how}, the most of its own tables, which takes {format_seconds(floor_s)}; "
        f"{_ADVICE}"
    )


def speed_of(profile: Profile) -> float:
    """Return the most operations a second that a profile's calls of the whole model reach; infinite without any."""
    speeds = [
        call_flop(profile.shape, max(amount, 1.0), cached, batch) / table.point_s(amount, cached)
        for table, batch in _calls(profile)
        for amount in table.amounts
        for cached in table.columns
        if table.point_s(amount, cached) > 0
    ]
    return max(speeds, default=float("inf"))


_ADVICE = 'calibrate this shape, or set profile.scale = "work" to scale every table by the work it stands for'


def _other(profile: Profile, shape: ModelShape, quantisation: Quantisation | None) -> str:
    there, here = in_words(profile, shape, quantisation)
    return f"profile {profile.name!r} was made for another model ({there}) than this one ({here})"


def _calls(profile: Profile) -> Iterator[tuple[CostTable, int]]:
    """Yield the tables of calls of the whole model, and the batch of each."""
    if profile.prefill is not None:
        yield profile.prefill, 1
    for name, table in profile.tables().items():
        if name.startswith(_CALLS):
            yield table, int(name.removeprefix(_CALLS))


def _scaled_segment(cost: SegmentCost, ratio: float) -> SegmentCost:
    device = _times(cost.device, lambda _amount, _column: ratio)
    return cost.model_copy(update={"device": device, "tail_s": cost.tail_s * ratio})


def _scaled_cache(name: str, table: CostTable, profile: Profile, shape: ModelShape, scale: Scale | None) -> CostTable:
    token_bytes, own_bytes = (one.num_layers * one.page_bytes(1) for one in (shape, profile.shape))
    if name.startswith(_BY_TOKEN):
        if scale is not None:
            return _times(table, lambda _amount, _column: token_bytes / own_bytes)
        stated = profile.link.stated_bandwidth_bytes_per_s
        if name.endswith(_OVER_LINK) and profile.link.emulated and stated is not None:
            more_s = (token_bytes - own_bytes) / stated
            least_s = token_bytes / stated
            return table.changed(lambda amount, _column, time_s: max(time_s + more_s * amount, least_s * amount))
        return table
    if scale is not None and f"caches.{name}".startswith(_CALLS):
        return _times(table, _flop_ratio(profile, shape, batch=int(name.partition("@")[2])))
    return table


def _flop_ratio(profile: Profile, shape: ModelShape, *, batch: int) -> Callable[[float, float], float]:
    widths = shape.dtype_bytes / profile.shape.dtype_bytes

    def ratio(new_tokens: float, cached_tokens: float) -> float:
        sizes = (max(new_tokens, 1.0), cached_tokens, batch)
        return widths * call_flop(shape, *sizes) / call_flop(profile.shape, *sizes)

    return ratio


def _times(table: CostTable, ratio: Callable[[float, float], float]) -> CostTable:
    return table.changed(lambda amount, column, time_s: time_s * ratio(amount, column))
