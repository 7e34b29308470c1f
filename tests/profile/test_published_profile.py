"""The published profile: it loads, gives a source for everything, and says what its sources say."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvsim.experiments.decode.simulate import simulate
from kvsim.experiments.registry import load_scenario
from kvsim.experiments.types import Job
from kvsim.profile.profile import Profile, load_profile
from kvsim.scenario.shapes import SHAPES
from kvsim.scenario.shipped import find_scenario

PATH = Path(__file__).resolve().parents[2] / "profiles" / "h200-llama-3-8b-published.toml"


@pytest.fixture(scope="module")
def profile() -> Profile:
    return load_profile(PATH)


def test_it_is_for_llama_3_8b_on_a_gpu_and_labelled_published(profile):
    assert (profile.kind, profile.device, profile.synchronous) == ("published", "cuda", False)
    assert profile.shape == SHAPES["llama-3-8b"]
    assert not profile.link.emulated


@pytest.mark.parametrize(
    ("batch", "step", "latency_us"),
    [(1, 4095, 16.57), (1, 65535, 84.33), (2, 16383, 49.06), (16, 8191, 150.57), (64, 8191, 490.76)],
)
def test_attention_reproduces_rows_of_the_table_it_was_made_from(profile, batch, step, latency_us):
    """Rows of generation_attention_perf (H200, vLLM 0.24.0): 32 query heads, 8 KV heads, head 128, bf16."""
    table = profile.segments["attention"].device
    assert table.at_s(batch * (step + 1), sequences=batch) * 1e6 == pytest.approx(latency_us, abs=0.006)
    assert table.covers(batch * (step + 1), sequences=batch)


@pytest.mark.parametrize(
    ("pieces", "piece_bytes", "gb_per_s"),
    [(100_000, 4096, 3.8), (50_000, 24_576, 6.7), (100_000, 28_672, 44.1), (10_000, 65_536, 38.8)],
)
def test_copies_reproduce_the_rates_of_vllm_pr_42212(profile, pieces, piece_bytes, gb_per_s):
    copy_s = profile.link.to_device.transfer_s(pieces, piece_bytes)
    assert pieces * piece_bytes / copy_s / 1e9 == pytest.approx(gb_per_s, rel=1e-6)


def test_a_layer_takes_at_least_the_time_to_read_its_weights(profile):
    """218 million parameters of a layer at the H200's 4.8 TB/s: no published kernel may be faster."""
    layer_s = sum(
        profile.segments[name].device.at_s(0, sequences=1) for name in ("attention_input", "attention_output")
    )
    embeddings = 2 * profile.shape.vocab_size * profile.shape.hidden_size
    weights_bytes = (profile.shape.num_parameters - embeddings) / profile.shape.num_layers * 2
    assert weights_bytes / 4.8e12 < layer_s < 2 * weights_bytes / 4.8e12


def test_every_number_has_a_source_and_assumptions_say_so(profile):
    assert all(table.source for table in profile.tables().values())
    link = profile.link
    scalars = {
        "sync_s": profile.sync_s,
        "device_memory_bytes": profile.device_memory_bytes,
        "link.to_device.submit_s": link.to_device.submit_s,
        "link.to_host.submit_s": link.to_host.submit_s,
        "link.both_ways_slowdown_frac": link.both_ways_slowdown_frac,
        "link.compute_slowdown_frac": link.compute_slowdown_frac,
    }
    assert not [name for name in scalars if not profile.sources.get(name)]
    assumed = [profile.sources["sync_s"], profile.sources["link.compute_slowdown_frac"], profile.policies["*"].source]
    assumed.append(profile.segments["speculate"].device.source)
    assert all(text.startswith("assumption:") for text in assumed)


def test_more_work_never_costs_less(profile):
    for name, table in profile.tables().items():
        for earlier, later in zip(table.time_s, table.time_s[1:], strict=False):
            assert all(left <= right for left, right in zip(earlier, later, strict=True)), name
    for name in ("embed", "attention_input", "attention_output", "head"):
        row = profile.segments[name].device.time_s[0]
        assert list(row) == sorted(row), name


def test_every_cost_says_how_far_it_may_be_off_and_a_simulated_time_has_an_interval(profile):
    spreads = {name: (table.residual_low_frac, table.residual_high_frac) for name, table in profile.tables().items()}
    assert all(low < 0 < high for name, (low, high) in spreads.items() if name != "policies.resident")
    assert spreads["segments.head"] == pytest.approx((-0.11, 0.11), abs=0.005)
    assert spreads["segments.attention"] == pytest.approx((-0.26, 0.44), abs=0.005)  # TensorRT-LLM; SGLang -25% to -3%
    path = find_scenario("long_context")
    overrides = ["trace.extrapolate.context_tokens=8192", "trace.num_steps=10", "budget.context_frac=0.25"]
    loaded = load_scenario(path, overrides)
    for cell in simulate(loaded.scenario, Job(base_dir=path.parent)).summary["cells"]:
        low_s, high_s = cell["tpot_interval_s"]
        assert 0.02 < (high_s - low_s) / cell["tpot_mean_s"] < 1
