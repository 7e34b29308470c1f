"""Costs of a serving step from those of a decode step and of prefill, where nobody has timed a serving engine."""

from __future__ import annotations

import itertools

from kvsim.errors import CalibrationError
from kvsim.profile.profile import Profile
from kvsim.profile.serving import ServingCosts
from kvsim.profile.tables import Amount, CostTable

VLLM_HOST = CostTable(
    amount="requests",
    amounts=(1.0, 256.0),
    time_s=((191e-6,), (3e-3,)),
    residual_low_frac=-0.5,
    residual_high_frac=1.0,
    source="schedule() and update_from_output() of vLLM 0.32.0 on one core of an AMD EPYC: 35 us for 1 request to 2.7 "
    "ms for 256 with no model beside it, 190 us for 1 where a forward pass runs between; assumption: input "
    "preparation and output handling are within the interval",
)
"""Host time of a step of vLLM by the requests of its batch, for profiles that have none of their own."""


def serving_from_segments(profile: Profile) -> ServingCosts:
    """Return what a serving step costs by the segments and the prefill of a profile.

    Up to the largest batch of the segments a token costs what a sequence of that batch does; above it, what prefill of
    so many tokens after none takes, less their attention. Pairs cost what prefill after cached tokens takes longer.

    Raises
    ------
    CalibrationError
        If the profile lacks prefill, or prefill after cached tokens.
    """
    prefill = profile.prefill
    if prefill is None or len(prefill.columns) < 2:
        raise CalibrationError(
            f"profile {profile.name}: it has neither costs of serving nor of prefill after cached tokens, so no step "
            "of many prompts can be priced; calibrate again, or take a profile that has them"
        )
    pair_s = _pair_s(prefill)
    keys = _keys(profile, pair_s)
    most_pairs = prefill.amounts[-1] * (prefill.columns[-1] + prefill.amounts[-1] / 2)
    head = profile.segments["head"].device
    return ServingCosts(
        engine=f"none was timed: from decode and prefill of {profile.name}",
        host=VLLM_HOST.changed(lambda _amount, _column, time_s: time_s + profile.sync_s),
        tokens=_tokens(profile, prefill, keys, pair_s),
        keys=keys,
        pairs=_like(prefill, "pairs", (0.0, most_pairs), (0.0, most_pairs * pair_s)),
        sampled=_like(head, "requests", (0.0, *head.columns), (0.0, *(_of(head, batch) for batch in head.columns))),
    )


def _pair_s(prefill: CostTable) -> float:
    """Return the seconds of one pair, by the largest prefill with cached tokens against the same without."""
    new, cached = prefill.amounts[-1], prefill.columns[-1]
    longer_s = prefill.at_s(new, cached_tokens=cached) - prefill.at_s(new, cached_tokens=0)
    return max(longer_s, 0.0) / (new * cached)


def _keys(profile: Profile, pair_s: float) -> CostTable:
    """Return decode attention of all layers over keys read, at the largest batch: that of a server.

    Decode has a pair for each key, so its pairs are taken off: what is left is the reading.
    """
    table = profile.segments["attention"].device
    layers = profile.shape.num_layers
    left_s = (layers * row[-1] - pair_s * keys for keys, row in zip(table.amounts, table.time_s, strict=True))
    return _like(table, "keys", table.amounts, tuple(itertools.accumulate(left_s, max, initial=0.0))[1:])


def _tokens(profile: Profile, prefill: CostTable, keys: CostTable, pair_s: float) -> CostTable:
    """Return what does not depend on the context, over tokens; it never falls."""
    layer = [profile.segments[name].device for name in ("attention_input", "attention_output")]
    embed, head = profile.segments["embed"].device, profile.segments["head"].device
    batches = embed.columns

    def by_segments(tokens: float) -> float:
        return profile.shape.num_layers * sum(_of(table, tokens) for table in layer) + _of(embed, tokens)

    def by_prefill(tokens: float) -> float:
        attention_s = keys.at_s(tokens) + pair_s * tokens * (tokens + 1) / 2
        return prefill.at_s(tokens, cached_tokens=0) - attention_s - _of(head, 1)

    many = [tokens for tokens in prefill.amounts if tokens > batches[-1]]
    values = [*map(by_segments, batches), *map(by_prefill, many)]
    return _like(prefill, "tokens", (*batches, *many), tuple(itertools.accumulate(values, max)))


def _of(table: CostTable, sequences: float) -> float:
    """Return the seconds of a segment that does not depend on the context, for a batch."""
    return table.at_s(0, sequences=sequences)


def _like(table: CostTable, amount: Amount, amounts: tuple[float, ...], time_s: tuple[float, ...]) -> CostTable:
    """Return a table of one column with the interval and the source of another."""
    return CostTable(
        amount=amount,
        amounts=amounts,
        time_s=tuple((value,) for value in time_s),
        residual_low_frac=table.residual_low_frac,
        residual_high_frac=table.residual_high_frac,
        median_error_frac=table.median_error_frac,
        source=table.source,
    )
