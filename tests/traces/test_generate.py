from __future__ import annotations

import itertools
import math
import pickle
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.errors import TraceError
from kvsim.traces import GeneratorParameters, LayerParameters, SyntheticSource, measure_statistics
from kvsim.traces.generator import generate
from kvsim.traces.generator.parameters import EstimateParameters
from tests.traces.calm import CALM

QUEST = "estimate:quest"


def parameters_of(*changes: dict[str, Any], page_tokens: int = 32, **everywhere: Any) -> GeneratorParameters:
    """One layer for each of `changes`, four alike where there are none."""
    layers = tuple(LayerParameters(**(CALM | everywhere | change)) for change in changes or ({},) * 4)
    return GeneratorParameters(page_tokens=page_tokens, context_tokens=4096, channel=QUEST, layers=layers)


def source_of(*changes: dict[str, Any], **everywhere: Any) -> SyntheticSource:
    return SyntheticSource(parameters_of(*changes, **everywhere), context_tokens=4096, num_steps=48, seed=3)


def scores_of(source: SyntheticSource, step: int, channel: str = "mass") -> np.ndarray:
    """``[num_sequences, num_layers, num_pages]``."""
    rows = [source.scores(step, layer, channel, source.page_tokens) for layer in range(source.num_layers)]
    return np.stack(rows, axis=1)


@settings(max_examples=30)
@given(
    page_tokens=st.sampled_from([16, 32, 64, 256]),
    extra=st.integers(0, 900),
    sequences=st.integers(1, 3),
    layers=st.integers(1, 5),
    spread=st.floats(0, 8),
    sink=st.floats(0, 1),
    recent=st.floats(0, 1),
    bursts=st.floats(0, 3),
    exponent=st.floats(0, 3),
    seed=st.integers(0, 2**32),
)
def test_every_row_is_a_share_of_one_over_the_pages_of_its_context(
    page_tokens, extra, sequences, layers, spread, sink, recent, bursts, exponent, seed
):
    parameters = parameters_of(
        page_tokens=page_tokens,
        sink_frac=sink * 0.999,
        recent_frac=recent * (1 - sink),
        attraction_spread_nats=spread,
        jitter_spread_nats=spread / 2,
        burst_rate_per_step=bursts,
        burst_size_nats=6.0,
        shift_rate_per_step=0.3,
        shift_redraw_frac=1.0,
        recency_exponent=exponent,
        near_exponent=exponent,
    )
    context = 128 + 2 * page_tokens + extra
    source = SyntheticSource(
        parameters, context_tokens=context, num_steps=20, num_layers=layers, num_sequences=sequences, seed=seed
    )
    assert source.channels == ("mass", QUEST)
    for step in range(20):
        assert source.context_tokens(step).tolist() == [context + step] * sequences
        for channel in source.channels:
            rows = scores_of(source, step, channel)
            assert rows.dtype == np.float16
            assert rows.shape == (sequences, layers, -(-(context + step) // page_tokens))
            assert np.isfinite(rows).all() and (rows >= 0).all()
            np.testing.assert_allclose(rows.sum(axis=-1, dtype=np.float64), 1, atol=2e-3)
    assert source.selection(0, 0, page_tokens) is None


def test_shares_are_those_stated():
    source = source_of({"sink_frac": 0.1, "recent_frac": 0.3}, {"sink_frac": 0.5, "recent_frac": 0.25})
    for step in (0, 31, 47):
        mass = scores_of(source, step)[0].astype(float)
        np.testing.assert_allclose(mass[:, 0], [0.1, 0.5], rtol=2e-3)
        np.testing.assert_allclose(mass[:, -4:].sum(axis=-1), [0.3, 0.25], rtol=2e-3)  # 128 tokens of 32-token pages


def test_the_same_seed_makes_the_same_accesses_and_another_seed_others():
    here, again = source_of(), source_of()
    np.testing.assert_array_equal(scores_of(here, 20, QUEST), scores_of(again, 20, QUEST))
    other = SyntheticSource(parameters_of(), context_tokens=4096, num_steps=48, seed=4)
    assert not np.array_equal(scores_of(here, 20), scores_of(other, 20))


def test_steps_do_not_depend_on_how_they_are_asked_for():
    in_order = source_of()
    steps = [scores_of(in_order, step) for step in range(48)]
    jumping = source_of()
    for step in (40, 3, 4, 47, 46, 0, 0, 20):
        np.testing.assert_array_equal(scores_of(jumping, step), steps[step])


def test_the_first_steps_of_a_longer_run_are_those_of_a_shorter_one():
    long = SyntheticSource(parameters_of(), context_tokens=4096, num_steps=300, seed=3)
    np.testing.assert_array_equal(scores_of(long, 47, QUEST), scores_of(source_of(), 47, QUEST))


def test_pickled_in_the_middle_it_goes_on_alike():
    source = source_of()
    scores_of(source, 10)
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(scores_of(again, 11, QUEST), scores_of(source, 11, QUEST))


def test_scores_cannot_be_written_over():
    with pytest.raises(ValueError, match="read-only"):
        source_of().mass(0, 0, 32)[0, 0] = 1


def test_memory_does_not_grow_with_steps(monkeypatch):
    small = source_of()
    monkeypatch.setattr(generate, "_CACHED_BYTES", 2**16)
    large = source_of()
    for step in range(48):
        scores_of(small, step)
        scores_of(large, step)
    assert len(small._cached) == 48, "all of its steps are small"
    assert len(large._cached) == 2


def test_another_number_of_layers_takes_parameters_at_the_same_relative_depth():
    sinks = [0.1, 0.2, 0.3, 0.4]
    parameters = parameters_of(*({"sink_frac": sink} for sink in sinks))
    source = SyntheticSource(parameters, context_tokens=4096, num_steps=1, num_layers=7)
    wanted = [sinks[math.floor(layer * 3 / 6 + 0.5)] for layer in range(7)]
    np.testing.assert_allclose(scores_of(source, 0)[0, :, 0].astype(float), wanted, rtol=2e-3)
    one = SyntheticSource(parameters, context_tokens=4096, num_steps=1, num_layers=1)
    assert float(scores_of(one, 0)[0, 0, 0]) == pytest.approx(0.1, rel=2e-3)


def test_middle_growth_moves_its_share_of_the_recent_mass_at_each_doubling():
    for context, left in ((4096, 1.0), (2048, 1.0), (8192, 0.8), (32768, 0.8**3)):
        source = SyntheticSource(parameters_of(), context_tokens=context, num_steps=1, middle_growth=0.2)
        mass = scores_of(source, 0)[0].astype(float)
        np.testing.assert_allclose(mass[:, -4:].sum(axis=-1), 0.4 * left, rtol=3e-3)
        np.testing.assert_allclose(mass[:, 0], 0.2, rtol=2e-3)


def test_recent_mass_falls_with_the_stated_power_of_age():
    flat = {"attraction_spread_nats": 0.0, "dynamic_spread_nats": 0.0, "near_exponent": 0.5, "recency_exponent": 2.0}
    mass = scores_of(source_of(flat), 0)[0, 0].astype(float)
    ages = np.arange(4, -1, -1) * 32.0  # page edges, oldest first; 4096 tokens end a page
    weights = 1 / (1 + ages[1:]) - 1 / (1 + ages[:-1])
    np.testing.assert_allclose(mass[-4:], 0.4 * weights / weights.sum(), rtol=3e-3)
    assert mass[-5] / mass[-9] == pytest.approx((128 / 256) ** -0.5, rel=3e-3)
    assert mass[1] == mass[40]  # older than 1024 tokens


@pytest.mark.parametrize(
    ("name", "low", "high", "statistic", "sign", "fixed"),
    [
        ("attraction_spread_nats", 0.3, 2.0, "middle_top_frac", 1, {}),
        ("attraction_spread_nats", 0.3, 2.0, "middle_first_recall_frac", 1, {}),
        ("dynamic_spread_nats", 0.3, 2.0, "middle_first_recall_frac", -1, {}),
        ("persistence_per_step", 0.5, 0.98, "middle_step_recall_frac", 1, {}),
        ("persistence_per_step", 0.5, 0.98, "middle_gap_recall_frac", 1, {}),
        ("jitter_spread_nats", 0.0, 1.0, "middle_step_recall_frac", -1, {}),
        ("shift_rate_per_step", 0.0, 0.5, "middle_step_recall_frac", -1, {"shift_redraw_frac": 1.0}),
        ("shift_redraw_frac", 0.0, 1.0, "middle_step_recall_frac", -1, {"shift_rate_per_step": 0.5}),
        ("burst_rate_per_step", 0.0, 2.0, "middle_distinct_pages", 1, {"burst_size_nats": 6.0}),
        ("burst_size_nats", 0.0, 6.0, "middle_distinct_pages", 1, {"burst_rate_per_step": 2.0}),
        (
            "burst_duration_steps",
            1,
            20,
            "middle_step_recall_frac",
            1,
            {"burst_rate_per_step": 2.0, "burst_size_nats": 6.0},
        ),
        ("layer_affinity_corr", 0.0, 0.95, "middle_layer_recall_frac", 1, {}),
        ("near_exponent", 0.0, 2.0, "middle_layer_recall_frac", 1, {"layer_affinity_corr": 0.0}),
        ("recency_exponent", 0.0, 2.0, "top_4_share_frac", 1, {}),
    ],
)
def test_a_parameter_moves_the_statistic_that_it_is_there_for(name, low, high, statistic, sign, fixed):
    less = measure_statistics(source_of(**(fixed | {name: low})), 32).averages()[statistic]
    more = measure_statistics(source_of(**(fixed | {name: high})), 32).averages()[statistic]
    assert sign * (more - less) > 0.03


@pytest.mark.parametrize(
    ("change", "statistic", "sign"),
    [
        ({"noise_spread_nats": 2.0}, "middle_channel_recall", -1),
        ({"slope": 0.2}, "middle_channel_recall", -1),
        ({"slope": 2.0}, "middle_channel_top", 1),
        ({"noise_persistence_per_step": 0.99}, "middle_channel_step_recall", 1),
    ],
)
def test_the_estimate_follows_the_mass_as_stated(change, statistic, sign):
    plain = EstimateParameters(slope=1.0, noise_spread_nats=1.0, noise_persistence_per_step=0.2)
    before = measure_statistics(source_of(estimate=plain), 32).averages()
    after = measure_statistics(source_of(estimate=plain.model_copy(update=change)), 32).averages()
    assert sign * (after[f"{statistic}:{QUEST}_frac"] - before[f"{statistic}:{QUEST}_frac"]) > 0.05


def test_without_noise_and_at_slope_one_the_estimate_is_the_mass():
    exact = EstimateParameters(slope=1.0, noise_spread_nats=0.0, noise_persistence_per_step=0.0)
    source = source_of(estimate=exact)
    np.testing.assert_allclose(
        scores_of(source, 9, QUEST).astype(float), scores_of(source, 9).astype(float), rtol=2e-3, atol=1e-6
    )


def test_a_layer_without_an_estimate_scores_nothing():
    scores = scores_of(source_of({"estimate": None}, {}), 5, QUEST)[0]
    assert not scores[0].any()
    assert scores[1].any()


def test_the_wandering_weight_has_the_stated_correlation_with_the_step_before():
    """A log-weight's lag-1 correlation is p without shifts, p((1 - r) + r sqrt(1 - f)) with them."""
    for rate, redraw in ((0.0, 0.0), (0.25, 0.75)):
        wander = {"attraction_spread_nats": 0.0, "persistence_per_step": 0.8, "layer_affinity_corr": 0.0}
        wander |= {"shift_rate_per_step": rate, "shift_redraw_frac": redraw}
        source = SyntheticSource(parameters_of(wander), context_tokens=32_768, num_steps=120, seed=1)
        logs = [np.log(scores_of(source, step)[0, 0, 1:900].astype(float)) for step in range(120)]
        wanted = 0.8 * ((1 - rate) + rate * math.sqrt(1 - redraw))
        found = [np.corrcoef(before, after)[0, 1] for before, after in itertools.pairwise(logs)]
        standard_error = np.std(found) / math.sqrt(len(found))
        assert np.mean(found) == pytest.approx(wanted, abs=4 * standard_error + 0.005)
        assert standard_error < 0.02


def test_log_weights_keep_their_stated_spread_from_the_first_step_to_the_last():
    for name in ("attraction_spread_nats", "dynamic_spread_nats", "jitter_spread_nats"):
        spreads = {"attraction_spread_nats": 0.0, "dynamic_spread_nats": 0.0, "jitter_spread_nats": 0.0, name: 1.5}
        wander = spreads | {"persistence_per_step": 0.9, "shift_rate_per_step": 0.2, "shift_redraw_frac": 0.5}
        source = SyntheticSource(parameters_of(wander, wander), context_tokens=65_536, num_steps=60, seed=7)
        for step in (0, 1, 59):
            logs = np.log(scores_of(source, step)[0, :, 1:2000].astype(float))
            standard_error = 1.5 / math.sqrt(2 * 1999)
            assert logs.std(axis=-1) == pytest.approx(1.5, abs=4 * standard_error)


def test_layers_of_one_shift_rate_shift_together():
    shifting = {"shift_rate_per_step": 0.1, "shift_redraw_frac": 1.0, "persistence_per_step": 0.99}
    source = SyntheticSource(parameters_of(shifting, shifting), context_tokens=16_384, num_steps=100, seed=5)
    logs = np.log(np.stack([scores_of(source, step)[0, :, 1:400].astype(float) for step in range(100)]))
    is_shift = (np.diff(logs, axis=0) ** 2).mean(axis=-1) > 0.5
    assert 3 < is_shift[:, 0].sum() < 25
    np.testing.assert_array_equal(is_shift[:, 0], is_shift[:, 1])


def test_a_needle_stands_out_for_its_duration_and_is_gone():
    still = {
        "attraction_spread_nats": 0.1,
        "dynamic_spread_nats": 0.0,
        "burst_size_nats": 5.0,
        "burst_duration_steps": 3,
    }
    source = SyntheticSource(
        parameters_of(still | {"burst_rate_per_step": 0.2}), context_tokens=8192, num_steps=120, seed=2
    )
    loud = np.stack([scores_of(source, step)[0, 0, 1:250] for step in range(120)]) > 0.4 / 20
    runs = "".join("1" if any_page else "0" for any_page in loud.any(axis=1))
    lengths = [len(run) for run in runs.split("0") if run]
    assert 8 <= len(lengths) <= 40
    assert min(lengths[1:-1]) == 3  # two that overlap last longer


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"page_tokens": 64}, "pages of 32 tokens, not 64"),
        ({"context_tokens": 191}, "at least 192"),
        ({"num_steps": 0}, "at least 1"),
        ({"num_sequences": 0}, "at least 1"),
        ({"middle_growth": 1.5}, "between 0 and 1"),
    ],
)
def test_what_cannot_be_generated_is_refused(change, said):
    with pytest.raises(TraceError, match=said):
        SyntheticSource(parameters_of(), **({"context_tokens": 4096, "num_steps": 4} | change))


def test_asking_for_another_page_size_channel_step_or_layer_names_what_there_is():
    source = source_of()
    for arguments, said in (
        ((0, 0, "mass", 16), "pages of 32"),
        ((0, 0, "estimate:mean", 32), "mass, estimate:quest"),
        ((48, 0, "mass", 32), "48 steps"),
        ((0, 4, "mass", 32), "4 layers"),
    ):
        with pytest.raises(TraceError, match=said):
            source.scores(*arguments)


def test_128k_tokens_of_32_layers_and_64_steps_take_a_second():
    parameters = parameters_of(page_tokens=64, jitter_spread_nats=0.5, burst_rate_per_step=0.1, burst_size_nats=4.0)
    source = SyntheticSource(parameters, context_tokens=131_072, num_steps=64, num_layers=32)
    start_s = time.process_time()
    for step in range(64):
        for layer in range(32):
            source.scores(step, layer, QUEST, 64)
            source.mass(step, layer, 64)
    assert time.process_time() - start_s < 1.5  # 0.4 s on an idle core
