"""`plan`: an answer for every card, model and context, and figures that a run reproduces and bounds hold."""

from __future__ import annotations

from pathlib import Path

import pytest

import kvsim
from kvsim.experiments.plan import Plan, plan
from kvsim.experiments.plan import scenario as plan_scenario
from kvsim.experiments.plan.recommend import is_enough, pareto_front
from kvsim.experiments.plan.report.text import plan_json, plan_text

CARDS = ("rtx-3060", "rtx-3090", "rtx-4090", "rtx-5090", "l4", "a10", "l40s", "a100-80gb", "h100", "m4-max")
MODELS = (
    "llama-3.2-1b",
    "llama-3.1-8b",
    "qwen3-8b",
    "qwen2.5-7b",
    "mistral-7b",
    "phi-4",
    "qwen3-30b-a3b",
    "deepseek-v3",
    "gemma-3-4b",
    "llama-3.1-70b",
)
CONTEXTS_TOKENS = (2_048, 8_192, 32_768)


@pytest.fixture
def one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate one step instead of a dozen: figures differ, and every part still runs."""
    monkeypatch.setattr(plan_scenario, "MIN_STEPS", 1)
    monkeypatch.setattr(plan_scenario, "MAX_STEPS", 1)


@pytest.fixture(scope="module")
def small() -> Plan:
    return plan("llama-3.2-1b", "rtx-3060", context_tokens=16_384, batch=4)


@pytest.fixture(scope="module")
def tight() -> Plan:
    """A cache that does not fit on one card."""
    return plan("qwen3-8b", "rtx-4090", context_tokens=32_768, batch=4)


@pytest.mark.usefixtures("one_step")
def test_ten_cards_ten_models_and_three_contexts_answer() -> None:
    for model in MODELS:
        for card in CARDS:
            for context_tokens in CONTEXTS_TOKENS:
                check_sound(plan(model, card, context_tokens=context_tokens))


def check_sound(made: Plan) -> None:
    """Fail where a plan contradicts itself or what bytes and rates allow."""
    request, options = made.request, made.options
    names = [option.name for option in options]
    assert len(set(names)) == len(names)
    assert set(made.front) <= {option.name for option in options if option.fits}
    assert made.recommended is None or made.recommended in made.front
    assert options[0].fits is made.memory.fits
    for option in options:
        low_s, high_s = option.tpot_interval_s
        assert 0 < low_s <= option.tpot_s <= high_s and low_s < high_s
        assert option.tokens_per_s == pytest.approx(request.batch / option.tpot_s, rel=1e-6)
        assert option.recall_frac is None or 0 < option.recall_frac <= 1
    whole, memory = options[0], made.memory
    if whole.basis == "estimated":  # it reads all weights but the table of embeddings, and all of the cache
        table_bytes = 2 * request.spec.vocab_size * request.spec.hidden_size
        is_dense = request.spec.num_active_parameters == request.spec.num_parameters
        read_bytes = memory.kv_bytes + (memory.weights_bytes - table_bytes if is_dense else 0)
        assert whole.tpot_s > read_bytes / request.card.memory_bandwidth_bytes_per_s
    text = plan_text(made)
    assert all(option.name in text for option in options)
    assert plan_json(made)["recommended"] == made.recommended


def test_a_run_of_the_scenario_gives_the_same_figures(tight: Plan, tmp_path: Path) -> None:
    made = kvsim.plan("qwen3-8b", "rtx-4090", context_tokens=32_768, batch=4)
    made.save_scenario(tmp_path / "plan.toml")
    cells = kvsim.run(tmp_path / "plan.toml").summary["cells"]
    simulated = [option for option in tight.options if option.cell is not None]
    assert len(simulated) > 6
    for option in simulated:
        assert option.cell is not None
        cell = cells[option.cell]
        assert cell["tpot_mean_s"] == pytest.approx(option.tpot_s, rel=1e-9)
        assert cell["tpot_interval_s"] == pytest.approx(option.tpot_interval_s, rel=1e-9)
        assert cell["host_bytes"] == option.host_bytes
        assert cell["device_bytes"] + tight.request.reserve_bytes == option.device_bytes
        assert cell["mass_recall_frac"] == pytest.approx(option.recall_frac or 1.0)


def test_all_on_the_card_takes_the_memory_of_the_table(small: Plan, tight: Plan) -> None:
    for made in (small, tight):
        assert made.options[0].device_bytes == pytest.approx(made.memory.total_bytes, rel=0.002)


def test_full_attention_costs_more_the_longer_the_context() -> None:
    short, long = (plan("llama-3.2-1b", "rtx-3060", context_tokens=tokens).options[0] for tokens in (8_192, 65_536))
    kv_bytes = (65_536 - 8_192) * 32 * 1024  # 32 KiB a token
    assert long.tpot_s - short.tpot_s > kv_bytes / 360e9


def test_what_fits_whole_is_recommended(small: Plan) -> None:
    assert small.memory.fits and small.recommended == "all on the card"


def test_what_does_not_fit_streams_and_a_limit_of_time_asks_for_pages(tight: Plan) -> None:
    assert not tight.memory.fits
    chosen = next(option for option in tight.options if option.name == tight.recommended)
    assert chosen.fits and is_enough(tight.request, chosen)
    hurried = plan("qwen3-8b", "rtx-4090", context_tokens=32_768, batch=4, tpot_s=0.06, recall_frac=0.6)
    chosen = next(option for option in hurried.options if option.name == hurried.recommended)
    assert chosen.tpot_s <= 0.06
    hopeless = plan("qwen3-8b", "rtx-4090", context_tokens=32_768, batch=4, tpot_s=0.001)
    assert hopeless.recommended is None and hopeless.sentences[0].startswith("Nothing that fits")


def test_host_memory_that_is_too_small_leaves_no_option_with_pages(tight: Plan) -> None:
    poor = plan("qwen3-8b", "rtx-4090", context_tokens=32_768, batch=4, host_memory_bytes=2**30)
    assert any(option.host_bytes and option.fits for option in tight.options)
    assert not any(option.host_bytes and option.fits for option in poor.options)


def test_nothing_on_the_front_is_beaten(tight: Plan) -> None:
    front = [option for option in tight.options if option.name in tight.front]
    others = [option for option in tight.options if option.fits and option not in front]
    assert front and others
    assert pareto_front(front) == tight.front
    for option in others:
        assert any(
            better.tpot_s <= option.tpot_s and (better.recall_frac or 1.0) >= (option.recall_frac or 1.0)
            for better in front
        )


def test_a_context_beyond_the_positions_is_warned_of(small: Plan) -> None:
    assert small.warnings == ()
    beyond = plan("deepseek-v3", "h200", context_tokens=1_000_000)
    assert "163,840 positions" in beyond.warnings[0]
    assert "Warning: deepseek-v3 has" in plan_text(beyond)


def test_memory_of_a_batch_that_fits_nowhere_is_answered_too() -> None:
    made = plan("deepseek-v3", "rtx-3060", context_tokens=4_096)
    assert made.recommended is None and made.memory.max_kv_tokens == 0
    assert "Nothing fits" in made.sentences[0]


def test_the_library_has_a_frame_and_a_picture() -> None:
    made = kvsim.plan("deepseek-v3", "h200", context_tokens=65_536)
    assert made.options["tpot_s"].min() > 0
    assert made.figure().startswith(b"\x89PNG")
    assert str(made) == plan_text(made.plan) and "deepseek-v3 on h200" in repr(made) and "<table" in made._repr_html_()
    with pytest.raises(kvsim.KvsimError, match="has no scenario"):
        made.save_scenario("never.toml")
