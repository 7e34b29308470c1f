"""Costs of serving: from a profile's own tables, or from those of decode and prefill; and blocks from memory."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from kvsim.errors import CalibrationError, CapacityError
from kvsim.experiments.serving.costs import costs_of, interval_frac, memory_of
from kvsim.profile.from_segments import serving_from_segments
from kvsim.profile.profile import load_profile
from kvsim.profile.serving import ServingCosts
from kvsim.scenario.shapes import SHAPES
from kvsim.scenario.shipped import find_profile
from tests.experiments.serving.tiny import scenario
from tests.sim.serving.engines import costs

GIB = 2**30


def profile(name="rtx-4090-llama-3-8b-estimated"):
    return load_profile(find_profile(name))


def step_of(made: ServingCosts, **amounts: float) -> float:
    return sum(made.tables()[name].at_s(amount) for name, amount in amounts.items())


@pytest.mark.parametrize("name", ["rtx-4090-llama-3-8b-estimated", "cpu-smollm2-135m"])
def test_costs_from_segments_give_prefill_back(name):
    measured = profile(name)
    made = serving_from_segments(measured)
    new, cached = measured.prefill.amounts[-1], measured.prefill.columns[-1]
    for context in (0.0, cached):
        pairs = new * context + new * (new + 1) / 2
        step_s = step_of(made, tokens=new, keys=new + context, pairs=pairs, sampled=1)
        assert step_s == pytest.approx(measured.prefill.at_s(new, cached_tokens=context), rel=0.03)


def test_costs_from_segments_give_a_decode_step_back():
    measured = profile()
    made = serving_from_segments(measured)
    batch, context = 256.0, 1000.0
    layer_s = sum(
        measured.segments[name].device.at_s(batch * context if name == "attention" else 0, sequences=batch)
        for name in ("attention_input", "attention", "attention_output")
    )
    expected_s = measured.shape.num_layers * layer_s + sum(
        measured.segments[name].device.at_s(0, sequences=batch) for name in ("embed", "head")
    )
    step_s = step_of(made, tokens=batch, keys=batch * context, pairs=batch * context, sampled=batch)
    assert step_s == pytest.approx(expected_s, rel=1e-6)


def test_tables_never_fall():
    for name in ("rtx-4090-llama-3-8b-estimated", "cpu-smollm2-135m"):
        for table in serving_from_segments(profile(name)).tables().values():
            column = [row[0] for row in table.time_s]
            assert column == sorted(column)


def test_a_profile_without_prefill_is_refused_with_what_would_do():
    with pytest.raises(CalibrationError, match="neither costs of serving nor of prefill"):
        costs_of(profile("h200-llama-3-8b-published"))


def test_a_profile_s_own_costs_win():
    own = costs(step_s=1.0)
    assert costs_of(profile().model_copy(update={"serving": own})) is own


def test_the_interval_weighs_tables_by_their_time_and_adds_what_steps_together_may_be_off():
    base = costs(error_frac=0.02)
    wide = base.tokens.model_copy(update={"residual_low_frac": -0.2, "residual_high_frac": 0.4})
    mixed = base.model_copy(update={"tokens": wide})
    totals_s = dict.fromkeys(base.tables(), 0.0)
    assert interval_frac(mixed, totals_s | {"tokens": 1.0}) == pytest.approx((-0.22, 0.42))
    assert interval_frac(mixed, totals_s | {"tokens": 1.0, "keys": 1.0}) == pytest.approx((-0.12, 0.22))
    assert interval_frac(mixed, totals_s | {"keys": 1.0}) == pytest.approx((-0.02, 0.02))


def test_a_table_of_two_columns_is_refused():
    tables = costs().tables()
    two = {"columns_are": "sequences", "columns": (1.0, 2.0), "time_s": ((0.0, 0.0), (1.0, 1.0))}
    wide = tables["keys"].model_copy(update=two)
    with pytest.raises(ValueError, match="keys: a table of one column"):
        ServingCosts(engine="test", **(tables | {"keys": wide}))


CARD = {
    "model__shape": "llama-3-8b",
    "profile__path": "rtx-4090-llama-3-8b-estimated",
    "engine__num_gpu_blocks_override": None,
    "engine__gpu_memory_utilization": 0.92,
    "engine__max_model_len": 16384,
    "engine__max_num_batched_tokens": 2048,
    "engine__max_num_seqs": 128,
}


def test_the_pool_is_what_weights_and_a_step_leave_of_the_memory():
    memory = memory_of(scenario(**CARD), profile())
    shape = SHAPES["llama-3-8b"]
    assert memory.block_bytes == 32 * 2 * 8 * 128 * 2 * 16
    left = 0.92 * profile().device_memory_bytes - shape.weights_bytes - memory.activation_bytes
    assert memory.num_blocks == int(left // memory.block_bytes)
    assert memory.activation_bytes > 2048 * 2 * shape.intermediate_size * 2
    stated = memory_of(scenario(**CARD, engine__activation_memory="2 GiB"), profile())
    assert stated.activation_bytes == 2 * GIB and stated.num_blocks < memory.num_blocks


def test_a_pool_that_does_not_hold_one_request_is_refused_in_one_line():
    with pytest.raises(CapacityError, match=r"engine.max_model_len = 65536 needs 4097") as refusal:
        memory_of(scenario(**(CARD | {"engine__max_model_len": 65536})), profile())
    assert "\n" not in str(refusal.value)
    with pytest.raises(CapacityError, match="20 blocks of 16 tokens"):
        memory_of(scenario(engine__num_gpu_blocks_override=20), profile("cpu-smollm2-135m"))


def test_the_estimated_profile_that_ships_is_what_its_script_makes():
    path = Path(__file__).parents[3] / "profiles" / "estimated" / "make.py"
    spec = spec_from_file_location("make_estimated", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in module.SHIPPED:
        assert module.make(name) == profile(name)
