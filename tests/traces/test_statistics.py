from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.errors import TraceError
from kvsim.traces import compare_statistics, measure_statistics
from kvsim.types import pages_of

SCORES = ("mass", "estimate:quest")


class Given:
    """Accesses handed over as arrays, ``[num_steps, num_sequences, num_layers, num_pages]`` by channel."""

    def __init__(self, page_tokens: int, context_tokens: np.ndarray, **scores: np.ndarray) -> None:
        self.page_tokens = page_tokens
        self._context_tokens = context_tokens  # [num_steps, num_sequences]
        self._scores = {name.replace("_", ":"): rows for name, rows in scores.items()}
        self.channels = tuple(self._scores)
        self.num_steps, self.num_sequences, self.num_layers, _ = scores["mass"].shape

    def context_tokens(self, step: int) -> np.ndarray:
        return self._context_tokens[step]

    def scores(self, step: int, layer: int, channel: str, page_tokens: int) -> np.ndarray:
        if page_tokens != self.page_tokens:
            raise TraceError("given", "another page size")
        return self._scores[channel][step, :, layer, : pages_of(int(self._context_tokens[step].max()), page_tokens)]

    def mass(self, step: int, layer: int, page_tokens: int) -> np.ndarray:
        return self.scores(step, layer, "mass", page_tokens)

    def selection(self, step: int, layer: int, page_tokens: int) -> None:
        return None


def random_accesses(seed: int, *, steps: int = 12, layers: int = 2, prompts: tuple[int, ...] = (600, 520)) -> Given:
    """Few distinct values, so that ties are common; one layer's estimate says nothing."""
    rng = np.random.default_rng(seed)
    context = np.array(prompts) + 1 + np.arange(steps)[:, None]
    pages = -(-context // 16)
    own = np.arange(pages.max()) < pages[:, :, None, None]
    shape = (steps, len(prompts), layers, pages.max())
    mass = rng.integers(1, 12, shape) * own
    estimate = rng.integers(0, 12, shape) * own * np.array([0, 1] * layers)[:layers, None]
    rows = {"mass": mass / mass.sum(axis=-1, keepdims=True), "estimate_quest": estimate / 100}
    return Given(16, context, **{name: row.astype(np.float16) for name, row in rows.items()})


def best(row: np.ndarray, first: int, last: int) -> set[int]:
    return set(sorted(range(first, last), key=lambda page: (-row[page], page))[:8])


def reference(source: Given, page_tokens: int) -> dict[str, np.ndarray]:
    """The statistics in plain Python, page by page."""
    found: dict[str, list[list[float]]] = {}

    def say(name: str, layer: int, value: float) -> None:
        found.setdefault(name, [[] for _ in range(source.num_layers)])[layer].append(value)

    seen: dict[tuple[int, int], set[int]] = {}
    for sequence in range(source.num_sequences):
        end = (source.context_tokens(0)[sequence] - 1 - 128) // page_tokens
        for layer in range(source.num_layers):
            first_mass = sum(
                np.pad(source.mass(step, layer, page_tokens)[sequence].astype(float), (0, 99))[:99] for step in range(8)
            )
            for step in range(source.num_steps):
                row = source.mass(step, layer, page_tokens)[sequence].astype(float)
                ordered = sorted(row, reverse=True)
                for k in (1, 4, 8, 16):
                    say(f"top_{k}_share_frac", layer, sum(ordered[:k]))
                for percent in (90, 95, 99):
                    wanted = percent / 100 * sum(ordered) * (1 - 1e-9)
                    enough = next(n for n in range(1, len(row) + 1) if sum(ordered[:n]) >= wanted)
                    say(f"pages_for_{percent}_percent", layer, enough)
                pages = pages_of(int(source.context_tokens(step)[sequence]), page_tokens)
                say("sink_frac", layer, row[0])
                say("recent_frac", layer, sum(row[pages - 128 // page_tokens : pages]))
                say("middle_frac", layer, sum(row[1:end]))
                middle = best(row, 1, end)
                say("middle_top_frac", layer, sum(row[page] for page in middle) / sum(row[1:end]))
                seen.setdefault((sequence, layer), set()).update(middle)
                for prefix, first, last in (("", 0, len(row)), ("middle_", 1, end)):
                    own = best(row, first, last)
                    if step:
                        before = source.mass(step - 1, layer, page_tokens)[sequence]
                        say(
                            f"{prefix}step_recall_frac",
                            layer,
                            len(own & best(before, first, min(last, len(before)))) / 8,
                        )
                    if layer:
                        above = source.mass(step, layer - 1, page_tokens)[sequence]
                        say(f"{prefix}layer_recall_frac", layer, len(own & best(above, first, last)) / 8)
                    scores = source.scores(step, layer, "estimate:quest", page_tokens)[sequence]
                    if scores.any():
                        theirs = best(scores, first, last)
                        say(f"{prefix}channel_recall:estimate:quest_frac", layer, len(own & theirs) / 8)
                if step >= 8:
                    earlier = source.mass(step - 8, layer, page_tokens)[sequence]
                    say("middle_gap_recall_frac", layer, len(middle & best(earlier, 1, end)) / 8)
                    say("middle_first_recall_frac", layer, len(middle & best(first_mass, 1, end)) / 8)
    means = {
        name: np.array([np.mean(values) if values else np.nan for values in layers]) for name, layers in found.items()
    }
    distinct = [[len(seen[s, layer]) for s in range(source.num_sequences)] for layer in range(source.num_layers)]
    return means | {"middle_distinct_pages": np.mean(distinct, axis=1)}


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32))
def test_statistics_are_those_that_plain_python_counts(seed):
    source = random_accesses(seed)
    found = measure_statistics(source, 16).by_layer()
    for name, wanted in reference(source, 16).items():
        np.testing.assert_allclose(found[name], wanted, rtol=2e-6, err_msg=name)


def test_the_best_pages_of_a_tie_are_the_first():
    mass = np.full((2, 1, 1, 40), 1 / 40)
    mass[1, ..., 8:16] += 1e-3
    source = Given(16, np.array([[630], [631]]), mass=mass)
    assert measure_statistics(source, 16).step_recall_frac[0] == 0  # pages 0 to 7, then 8 to 15


def test_a_channel_that_says_nothing_in_a_layer_is_nan_there_and_left_out_of_the_mean():
    statistics = measure_statistics(random_accesses(1), 16)
    recall = statistics.channel_recall_frac["estimate:quest"]
    assert np.isnan(recall[0])
    assert statistics.averages()["channel_recall:estimate:quest_frac"] == recall[1]
    assert np.isnan(statistics.layer_recall_frac[0])


def test_a_middle_of_eight_pages_says_nothing():
    statistics = measure_statistics(random_accesses(1, prompts=(128 + 9 * 16,)), 16)
    assert statistics.middle_pages == 8
    for name, row in statistics.by_layer().items():
        assert np.isnan(row).all() == (name.startswith("middle_") and name != "middle_frac"), name


def test_channels_and_steps_can_be_chosen():
    source = random_accesses(2)
    assert measure_statistics(source, 16, channels=()).channel_recall_frac == {}
    fewer = measure_statistics(source, 16, num_steps=5)
    assert fewer.num_steps == 5
    assert not np.array_equal(fewer.step_recall_frac, measure_statistics(source, 16).step_recall_frac)


def test_chance_is_the_share_of_the_middle_that_eight_pages_are():
    statistics = measure_statistics(random_accesses(3, prompts=(600,)), 16)
    assert statistics.chance_recall_frac == 8 / ((600 - 128) // 16 - 1)


def test_the_statistics_of_4k_tokens_30_layers_and_128_steps_take_under_3_seconds():
    rng = np.random.default_rng(0)
    mass = rng.random((128, 1, 30, 264), dtype=np.float32)
    source = Given(16, 4096 + np.arange(128)[:, None], mass=mass, estimate_quest=mass[..., ::-1])
    start_s = time.process_time()
    measure_statistics(source, 16)
    assert time.process_time() - start_s < 3


def test_comparing_a_trace_with_itself_finds_no_difference():
    statistics = measure_statistics(random_accesses(4), 16)
    rows = compare_statistics(statistics, statistics)
    assert [row.statistic for row in rows] == list(statistics.by_layer())
    assert all(row.difference == 0 and row.layer_difference == 0 for row in rows)


def test_a_comparison_gives_means_and_the_difference_of_synthetic_less_real():
    real = measure_statistics(random_accesses(5), 16)
    other = measure_statistics(random_accesses(6, layers=3), 16, channels=())
    rows = {row.statistic: row for row in compare_statistics(real, other)}
    assert "channel_recall:estimate:quest_frac" not in rows
    row = rows["sink_frac"]
    assert row.real == pytest.approx(real.sink_frac.mean())
    assert row.difference == pytest.approx(other.sink_frac.mean() - real.sink_frac.mean())
    assert np.isnan(row.layer_difference)
    same_depth = measure_statistics(random_accesses(6), 16)
    rows = {row.statistic: row for row in compare_statistics(real, same_depth)}
    assert rows["sink_frac"].layer_difference == pytest.approx(np.abs(same_depth.sink_frac - real.sink_frac).mean())


def test_pages_of_two_sizes_cannot_be_compared():
    source = random_accesses(7)
    here = measure_statistics(source, 16)
    source.page_tokens = 32
    with pytest.raises(TraceError, match="16 and of 32"):
        compare_statistics(here, measure_statistics(source, 32))
