"""The verdict: says what fits, what is saved, what it costs and loses, for every shape of result, and what to trust."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kvsim.experiments.decode.report.verdict import verdict

GIB = 2**30


def cell(policy="lru", *, context=1000, batch=1, kv_gib=2.0, tpot_s=0.01, mass=0.9, memory_gib=24, **more):
    resident = policy == "resident"
    device_bytes = int((15 + kv_gib) * GIB)
    return {
        "policy": policy,
        "budget_pages": None if resident else 100,
        "context_tokens": context,
        "batch": batch,
        "tpot_p50_s": tpot_s,
        "tokens_per_s": batch / tpot_s,
        "stall_frac": 0.1,
        "mass_recall_frac": mass,
        "weights_bytes": 14 * GIB,
        "activation_bytes": GIB,
        "summary_bytes": 0,
        "kv_device_bytes": int(kv_gib * GIB),
        "host_bytes": 0 if resident else 8 * GIB,
        "device_bytes": device_bytes,
        "fits": device_bytes <= memory_gib * GIB,
        "selector": "top-k by estimate:quest",
        **more,
    }


def say(cells, *, memory_gib=24, profile_kind="measured", emulated_link=False):
    return verdict(cells, memory_gib * GIB, profile_kind=profile_kind, emulated_link=emulated_link)


def test_it_says_what_fits_part_by_part_what_is_saved_paid_and_lost():
    paragraph, closing = say([cell("resident", kv_gib=12, tpot_s=0.008), cell("lru", kv_gib=2, tpot_s=0.01)])
    assert paragraph == (
        "At 1,000 tokens, everything resident takes 27 GiB (weights 14 GiB, KV 12 GiB, activations 1 GiB) of 24 GiB, "
        "3 GiB too much; a token would take 8 ms. `lru` takes 10 ms (1.25 times) with 2 GiB of KV on the device "
        "(saves 10 GiB). `lru` pins 8 GiB of host memory. Of the attention mass (pages read: top-k by estimate:quest), "
        "`resident` and `lru` lose 10.0%."
    )
    assert closing.startswith("The fastest that fits is `lru`. ")


def test_there_is_a_paragraph_for_each_context_in_order_and_a_closing_line():
    cells = [cell(context=context) for context in (4000, 1000, 2000, 1000)]
    lines = say(cells)
    assert [line.partition(" tokens")[0] for line in lines[:-1]] == ["At 1,000", "At 2,000", "At 4,000"]


def test_formats_of_weights_and_cache_are_not_mixed():
    """A token of packed weights is no answer to what everything resident takes unpacked."""
    cells = [
        cell(policy, tpot_s=tpot_s, kv_gib=12 if policy == "resident" else 2, **{"model.weights": weights})
        for weights, times_s in (("bf16", (0.02, 0.03)), ("int4", (0.01, 0.02)))
        for policy, tpot_s in zip(("resident", "lru"), times_s, strict=True)
    ]
    lines = say(cells)
    assert [line.partition(", everything")[0] for line in lines[:-1]] == [
        f"At 1,000 tokens with weights in {name}" for name in ("bf16", "int4")
    ]
    assert "would take 20 ms" in lines[0] and "would take 10 ms" in lines[1]
    assert all("model.weights" not in line for line in lines[:-1])


def test_batches_are_told_apart():
    lines = say([cell(batch=1), cell(batch=4)])
    assert "1,000 tokens, " in lines[0]
    assert "1,000 tokens in each of 4 sequences, " in lines[1]


def test_the_fastest_cell_that_fits_speaks_for_a_policy_and_then_the_leanest():
    cells = [
        cell(kv_gib=1, tpot_s=0.03),
        cell(kv_gib=4, tpot_s=0.02),
        cell(kv_gib=100, tpot_s=0.001, memory_gib=24),
    ]
    paragraph, _ = say(cells)
    assert "`lru` takes 20 ms with 4 GiB of KV on the device, or 30 ms with 1 GiB." in paragraph
    assert "1 ms" not in paragraph


def test_policies_are_told_fastest_first():
    paragraph, _ = say([cell("stream", tpot_s=0.3), cell("lru", tpot_s=0.02), cell("attention", tpot_s=0.01)])
    assert paragraph.index("`attention` takes") < paragraph.index("`lru` takes") < paragraph.index("`stream` takes")


def test_a_policy_that_does_not_fit_says_by_how_much():
    paragraph, closing = say([cell(kv_gib=10)])
    assert "`lru` does not fit: it takes at least 25 GiB, 1 GiB too much." in paragraph
    assert closing.startswith("Nothing fits. ")


def test_swept_settings_other_than_the_budget_are_named_where_they_differ():
    cells = [
        cell(tpot_s=0.02, **{"selector.k_pages": 8, "budget.context_frac": 0.1}),
        cell(tpot_s=0.03, **{"selector.k_pages": 16, "budget.context_frac": 0.1}),
    ]
    assert "on the device (selector.k_pages = 8)." in say(cells)[0]


def test_without_resident_nothing_is_compared_and_the_whole_kv_is_what_the_host_holds():
    paragraph, _ = say([cell()])
    assert "KV 8 GiB" in paragraph
    assert "times" not in paragraph
    assert "saves" not in paragraph


def test_lossless_and_unknown_quality_are_told_apart():
    paragraph, _ = say(
        [cell("stream", mass=1.0, selector="full"), cell("lru", mass=None), cell("attention", mass=0.95)]
    )
    assert "`stream` loses none, `lru` loses an unknown share and `attention` loses 5.0%" in paragraph


def test_when_everything_resident_fits_and_is_fastest_that_is_the_advice():
    cells = [cell("resident", kv_gib=2, tpot_s=0.008), cell("lru", kv_gib=1)]
    assert say(cells)[-1].startswith("Everything resident fits and is the fastest: ")


def test_the_advice_differs_by_context_where_the_answer_does():
    cells = [
        cell("resident", context=1000, kv_gib=2, tpot_s=0.008),
        cell("lru", context=1000, kv_gib=1),
        cell("resident", context=8000, kv_gib=20, tpot_s=0.008),
        cell("lru", context=8000, kv_gib=1),
        cell("lru", context=9000, kv_gib=20),
    ]
    assert say(cells)[-1].startswith(
        "The fastest that fits is `resident` at 1,000 tokens, `lru` at 8,000 tokens; at 9,000 tokens nothing fits. "
    )


@pytest.mark.parametrize(
    ("kind", "emulated", "words"),
    [
        ("published", False, "published figures, not measured on your machine"),
        ("measured", True, "link was emulated"),
        ("measured", False, "were measured"),
    ],
)
def test_the_closing_line_says_how_far_to_trust_it(kind, emulated, words):
    assert words in say([cell()], profile_kind=kind, emulated_link=emulated)[-1]


def test_a_whole_sweep_has_no_line_break_and_no_nan(run):
    summary, _ = run
    assert len(summary["verdict"]) == 4
    assert all("\n" not in line and "nan" not in line and "None" not in line for line in summary["verdict"])


def test_it_loads_neither_pandas_nor_matplotlib():
    imported = "from kvsim.experiments.decode.report import summary, verdict"
    code = f"import sys\n{imported}\nprint({{'pandas', 'matplotlib'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_paging_more_sequences_may_give_fewer_tokens_than_fewer_that_are_resident():
    cells = [
        cell("resident", batch=6, kv_gib=6, tpot_s=0.00614),
        cell("attention", batch=6, tpot_s=0.0135),
        cell("resident", batch=8, kv_gib=100, tpot_s=0.00641),
        cell("attention", batch=8, tpot_s=0.016),
    ]
    closing = say(cells)[-1]
    assert (
        "At 1,000 tokens the throughput is highest with 6 sequences of `resident`: 977 tokens/s, against 8 sequences "
        "of `attention`: 500 tokens/s (0.51 times) at most."
    ) in closing
    assert "throughput" not in say(cells[:2])[-1]  # one batch: the fastest token is the most tokens


def test_host_memory_is_said_by_what_it_takes_and_pinned_where_the_link_is_real():
    cells = [cell("resident"), cell("lru"), cell("attention"), cell("snapkv", host_bytes=0)]
    assert "`lru` and `attention` pin 8 GiB of host memory. Of the" in say(cells)[0]
    assert "`lru` and `attention` take 8 GiB of host memory. Of the" in say(cells, emulated_link=True)[0]
    assert "host memory" not in say([cell("resident")])[0]


@pytest.mark.parametrize("kind", ["estimated", "exact"])
def test_costs_that_nobody_measured_are_not_called_measured(kind):
    closing = say([cell("resident"), cell("lru")], profile_kind=kind)[-1]
    assert "were measured" not in closing
    assert {"estimated": "estimated from a data sheet", "exact": "The costs are stated"}[kind] in closing


def test_beside_an_extrapolated_loss_stands_how_far_the_generator_is_off():
    cells = [cell("resident", recall_bias_frac=0.067), cell("lru", recall_bias_frac=0.067)]
    assert "lose 10.0%; these accesses are generated: their loss at the trace's own length" in say(cells)[0]
    assert "differs from the trace's by -6.7 points." in say(cells)[0]
    assert "generated" not in say([cell("lru", recall_bias_frac=None)])[0]


def test_a_predictive_policy_that_misses_more_than_lru_is_named_with_its_worst_budget():
    def with_budget(policy, pages, misses, prefetched=0):
        more = {"budget.pages_per_layer": pages, "misses": misses, "prefetched": prefetched}
        return cell(policy, **more) | {"budget_pages": 30 * pages}

    lru = [with_budget("lru", 20, 2485), with_budget("lru", 24, 1349), with_budget("lru", 32, 638)]
    predictive = [(20, 2221), (24, 1380), (32, 700)]
    cells = lru + [with_budget("attention", pages, misses, 100) for pages, misses in predictive]
    assert "`attention` misses more pages than `lru` with 960 device pages (700 against 638)" in say(cells)[-1]
    assert "misses more" not in say([lru[0], with_budget("attention", 20, 2221, 100)])[-1]


def test_a_policy_that_sees_the_future_is_a_bound_and_not_recommended():
    bound = cell("belady", kv_gib=1, tpot_s=0.005, is_bound=True)
    closing = say([cell(kv_gib=1), bound])[-1]
    assert closing.startswith("The fastest that fits is `lru`. `belady` sees the future: a bound, not an option.")
    assert "`belady` at 2" not in say([bound, cell(), cell(batch=2), {**bound, "batch": 2, "tokens_per_s": 900}])[-1]
