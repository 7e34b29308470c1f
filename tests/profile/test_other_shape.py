"""A profile of another model: every experiment says whose times they are, impossible ones are refused, rules scale."""

from __future__ import annotations

import pytest

from kvsim.errors import CalibrationError, ScenarioError
from kvsim.experiments.registry import load_experiment
from kvsim.experiments.types import Job
from kvsim.profile.other_shape import adapted, bandwidth_of, call_problem, speed_of, step_problem, whose_times
from kvsim.profile.profile import load_profile
from kvsim.profile.work import call_flop, read_weights_bytes, segment_bytes
from kvsim.scenario.shapes import SHAPES
from kvsim.scenario.shipped import find_profile, find_scenario
from tests.experiments.named import load_named

H200_BYTES_PER_S = 4.8e12
LLAMA_70B = SHAPES["llama-3-70b"]


@pytest.fixture(scope="module")
def published():
    return load_profile(find_profile("h200-llama-3-8b-published", None))


@pytest.fixture(scope="module")
def measured():
    return load_profile(find_profile("cpu-smollm2-135m", None))


DECODE = """
schema_version = 1
name = "other"
page_tokens = 64
[model]
shape = "llama-3-70b"
[profile]
path = "h200-llama-3-8b-published"
allow_other_shape = true
[trace]
path = "smollm2-docs"
num_steps = 9
[trace.extrapolate]
context_tokens = 8192
[budget]
context_frac = 1.0
[selector]
name = "full"
[run]
policies = ["resident"]
"""


def run(path, *overrides):
    name, scenario = load_named(path, overrides)
    return load_experiment(name), load_experiment(name).simulate(scenario, Job(base_dir=path.parent)).summary


@pytest.fixture
def decode(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(DECODE)
    return path


@pytest.mark.parametrize("more", [[], ["model.shape=llama-3-8b", "model.dtype=fp32"]])
def test_a_step_that_would_move_its_weights_faster_than_the_profile_can_is_refused_with_the_numbers(decode, more):
    with pytest.raises(CalibrationError, match=r"by its times a step computes for .* which take .* GB/s") as refused:
        run(decode, *more)
    assert "\n" not in str(refused.value)
    assert 'profile.scale = "work"' in str(refused.value)


def test_a_scaled_step_takes_at_least_what_its_weights_take_and_says_that_it_is_scaled(decode):
    kind, summary = run(decode, "profile.scale=work")
    (cell,) = summary["cells"]
    assert cell["tpot_p50_s"] > LLAMA_70B.weights_bytes / H200_BYTES_PER_S
    assert summary["verdict"][0].startswith("Times are scaled, not measured")
    assert "times scaled from those of 32 layers of 4096" in kind.show(summary)


def test_times_of_another_model_that_can_be_are_shown_as_that(decode):
    kind, summary = run(decode, "model.shape=llama-3-8b", "model.quantisation=4bit")
    assert summary["verdict"][0].startswith("Times are another model's: profile h200-llama-3-8b-published")
    assert "with weights in 4bit" in summary["verdict"][0]
    assert "times of another model, 32 layers of 4096 in bf16" in kind.show(summary).partition("\n\n")[0]


def test_the_models_own_profile_says_nothing(decode):
    _, summary = run(decode, "model.shape=llama-3-8b")
    assert "times_of" not in summary["profile"]
    assert not any("another model" in line or "scaled" in line for line in summary["verdict"])


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("prompt_cache", ["prompts.document_tokens=64", "cache.tier=host"]),
        ("prefix_blocks", ["trace.num_requests=20", "cache.budget_blocks=50", "cache.policy=lru"]),
        ("kv_on_off", ["run.batch=1", "run.prompt_tokens=32", "run.new_tokens=2", "run.use_cache=true"]),
        ("prompt_modules", ["cache.policy=lru"]),
        ("embedding_cache", ["run.mode=cold", "cache.budget_rows=200"]),
    ],
)
@pytest.mark.parametrize("how", ["profile.allow_other_shape=true", "profile.scale=work"])
def test_every_experiment_says_in_verdict_and_above_the_table_whose_times_it_shows(name, sets, how):
    path = find_scenario(name)
    shape = SHAPES["smollm2-135m"].model_dump(mode="json", exclude_none=True) | {"num_layers": 29}
    values = {key: str(value).lower() if isinstance(value, bool) else repr(value) for key, value in shape.items()}
    other = f"model.shape={{{', '.join(f'{key} = {value}' for key, value in values.items())}}}"
    with pytest.raises(ScenarioError, match="another model shape"):
        run(path, *sets, other)
    kind, summary = run(path, *sets, other, how)
    label = "Times are another model's" if "allow" in how else "Times are scaled, not measured"
    assert summary["verdict"][0].startswith(label)
    assert "30 layers of 576 in bf16" in kind.show(summary).partition("\n\n")[0]


def test_the_fastest_of_a_profiles_own_tables_bounds_what_it_moves_and_computes(published, measured):
    """Of an H200's 4.8 TB/s the best table reaches nine tenths; two cores of a server move tens of GB/s at most."""
    bytes_per_s, _ = bandwidth_of(published)
    assert 0.8 * H200_BYTES_PER_S < bytes_per_s < H200_BYTES_PER_S
    assert 1e9 < bandwidth_of(measured)[0] < 1e11
    assert 1e10 < speed_of(measured) < 1e13
    assert speed_of(published) == float("inf")  # no table of calls


def test_a_profile_bounds_its_own_model_from_below(published, measured):
    """Whatever the batch and the context: the floor is never above the times it is made of."""
    for profile in (published, measured):
        other = profile.shape.model_copy(update={"tied_embeddings": not profile.shape.tied_embeddings})
        for batch, tokens in ((1, 16), (1, 4096), (4, 16_384)):
            assert step_problem(profile, other, None, read_tokens=tokens, batch=batch) is None
    forward = measured.cache_cost("forward@1")
    for new, cached in ((1, 0), (1, 4096), (512, 0), (512, 4096)):
        other = measured.shape.model_copy(update={"tied_embeddings": False})
        assert call_problem(measured, other, forward, new_tokens=new, cached_tokens=cached) is None


def test_a_call_of_a_larger_model_at_a_small_ones_times_is_refused(measured):
    forward = measured.cache_cost("forward@1")
    problem = call_problem(measured, SHAPES["llama-3-8b"], forward, new_tokens=512, cached_tokens=0)
    assert problem is not None and "TFLOP" in problem


def test_scaling_multiplies_each_table_by_the_work_it_stands_for(published, measured):
    scaled = adapted(published, LLAMA_70B, scale="work")
    here, there = segment_bytes(LLAMA_70B), segment_bytes(published.shape)
    for name, cost in published.segments.items():
        ratio = scaled.segments[name].device.at_s(4096, sequences=2) / cost.device.at_s(4096, sequences=2)
        assert ratio == pytest.approx(here[name] / there[name])
    assert scaled.link == published.link and scaled.policies == published.policies
    larger = adapted(measured, SHAPES["llama-3.2-1b"], scale="work")
    for amount, cached in ((1, 0), (96, 512)):
        ratio = larger.caches["forward@1"].at_s(amount, cached_tokens=cached) / measured.caches["forward@1"].at_s(
            amount, cached_tokens=cached
        )
        flop = call_flop(larger.shape, amount, cached, 1) / call_flop(measured.shape, amount, cached, 1)
        assert ratio == pytest.approx(flop, rel=0.1)  # between grid points the two are not interpolated alike
    assert larger.caches["rows.copy"] == measured.caches["rows.copy"]
    assert whose_times(larger, larger.shape).startswith("Times are scaled")


def test_a_scaled_profile_keeps_above_its_own_floor(published):
    scaled = adapted(published, LLAMA_70B, scale="work")
    for batch, tokens in ((1, 16), (1, 131_072), (64, 524_288)):
        parts = {name: cost.device for name, cost in scaled.segments.items()}
        layer_s = sum(parts[n].at_s(0, sequences=batch) for n in ("attention_input", "attention_output"))
        layer_s += parts["attention"].at_s(tokens, sequences=batch)
        step_s = LLAMA_70B.num_layers * layer_s + parts["head"].at_s(0, sequences=batch)
        kv_bytes = tokens * LLAMA_70B.num_layers * LLAMA_70B.page_bytes(1)
        assert step_s >= (read_weights_bytes(LLAMA_70B) + kv_bytes) / bandwidth_of(published)[0]
