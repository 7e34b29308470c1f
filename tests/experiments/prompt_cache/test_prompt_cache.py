"""Scenarios of a prompt cache: costs added up, break-evens that can be known, bad input, simulated beside measured."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from kvsim.caches.prefix import replay
from kvsim.caches.prompts.accounting import PromptCacheState, TierBudget
from kvsim.experiments.prompt_cache.prompts import prompts_of
from kvsim.experiments.prompt_cache.report.break_even import break_evens, crossing
from kvsim.experiments.prompt_cache.scenario import PromptsChoice
from kvsim.experiments.registry import load_experiment
from kvsim.profile.profile import load_profile, write_profile
from kvsim.profile.tables import CostTable
from kvsim.traces.requests.base import gather
from kvsim.traces.requests.registry import open_requests
from kvsim.traces.tokens.stream import StreamHeader, write_token_stream
from tests.experiments.running import printed, printed_json, refused, settings
from tests.experiments.running import simulate as run
from tests.experiments.tiny import forward_table, write_tiny

WEIGHTS_S, TOKEN_S, CACHED_S = 1e-3, 1e-5, 1e-7
BANDWIDTH_BYTES_PER_S = 2e9


def line(fixed_s: float, token_s: float) -> CostTable:
    amounts = (0.0, 1000.0)
    return CostTable(amount="tokens", amounts=amounts, time_s=tuple((fixed_s + token_s * n,) for n in amounts))


TABLES = {
    "forward@1": forward_table(WEIGHTS_S, TOKEN_S, CACHED_S),
    "restore.device": line(2e-4, 0.0),
    "restore.host": line(4e-4, 5e-6),
    "store.device": line(1e-4, 1e-6),
    "store.host": line(2e-4, 5e-6),
}
PROMPTS = """
schema_version = 1
kind = "prompt-cache"
name = "tiny"
prefill_chunk_tokens = 4096
[prompts]
stream = "s.jsonl"
num_requests = 4
document_tokens = 40
own_tokens = 8
[cache]
tier = "device"
"""


@pytest.fixture
def scenario(tiny_model_path, tmp_path) -> Path:
    """Return a scenario with `TABLES` for its costs, and no table of prefill."""
    header = StreamHeader(vocab_size=256, tokenizer="letters", source="drawn", licence="", recipe="")
    write_token_stream(tmp_path / "s.jsonl", header, [np.random.default_rng(0).integers(3, 256, 1500)])
    path = tmp_path / "s.toml"
    path.write_text(PROMPTS + write_tiny(tiny_model_path, tmp_path, TABLES, stated_bytes_per_s=BANDWIDTH_BYTES_PER_S))
    return path


def test_a_prompt_takes_its_transfer_and_the_computing_of_what_it_did_not_share(scenario) -> None:
    assert load_profile(scenario.parent / "p.toml").prefill is None
    (cell,) = run(scenario).summary["cells"]
    assert (cell["hits"], cell["reused_tokens"], cell["shared_tokens"]) == (3, 3 * 40, 40)
    assert cell["ttft_hit_full_s"] == pytest.approx(WEIGHTS_S + 48 * TOKEN_S)
    assert cell["ttft_hit_s"] == pytest.approx(2e-4 + WEIGHTS_S + 8 * TOKEN_S + 40 * CACHED_S)
    assert cell["ttft_mean_s"] == pytest.approx((cell["ttft_hit_full_s"] + 3 * cell["ttft_hit_s"]) / 4)
    assert cell["keep_mean_s"] == pytest.approx(1e-4 + 48e-6)
    rows = run(scenario).rows
    assert rows["reused_tokens"].tolist() == [0, 40, 40, 40]


def test_a_prompt_that_leaves_the_device_is_charged_its_way_to_the_host(scenario) -> None:
    sets = ["cache.budget_frac=0.125", "prompts.documents=2", "prompts.num_requests=8", "prompts.popularity=0"]
    (cell,) = run(scenario, "cache.tier=both", *sets).summary["cells"]
    assert (cell["demoted"], cell["evicted"]) == (7, 0)
    assert cell["keep_mean_s"] == pytest.approx(1e-4 + 48e-6 + 7 * (2e-4 + 48 * 5e-6) / 8)
    assert 0 < cell["host_hits"] <= cell["hits"]


def test_the_break_even_is_where_the_costs_of_the_profile_cross(scenario) -> None:
    lengths = [8, 16, 24, 32, 64]
    result = run(scenario, 'cache.tier=["device","host"]', f"prompts.document_tokens={lengths}")
    device, host = result.summary["break_evens"]
    assert device["from_tokens"] == pytest.approx(2e-4 / (TOKEN_S - CACHED_S), rel=1e-6)
    assert host["from_tokens"] is None and host["verdict"] == "never"  # 4e-4 / 4.9e-6 is 82 tokens
    assert "Tier host: loading beats computing at no length up to 64." in result.summary["verdict"]
    longer = run(scenario, "cache.tier=host", "prompts.document_tokens=[64, 100]").summary["break_evens"]
    assert longer[0]["from_tokens"] == pytest.approx(4e-4 / (TOKEN_S - CACHED_S - 5e-6), rel=1e-6)


def test_what_pays_at_every_length_or_only_here_and_there_is_told_as_that() -> None:
    assert crossing([4, 8], [1.0, 2.0]) == ("always", None)
    assert crossing([4, 8, 16, 32], [1.0, -1.0, 3.0, 4.0]) == ("from", 10.0)
    cell = dict.fromkeys(("tier", "policy", "budget_bytes", "link_bytes_per_s", "least_tokens"))
    assert break_evens([cell | {"shared_tokens": 8, "ttft_hit_s": 1.0, "ttft_hit_full_s": 2.0}]) == []


def test_a_link_half_as_fast_never_makes_anything_faster_and_says_down_to_what_it_pays(scenario) -> None:
    rates = ["2 GB", "500 MB", "50 MB", "5 MB"]
    found = run(scenario, "cache.tier=host", f"cache.link_bytes_per_s={json.dumps(rates)}").summary["cells"]
    times_s = [cell["ttft_hit_s"] for cell in found]
    assert all(left < right for left, right in pairwise(times_s))
    token_bytes = 3 * 2 * 2 * 16 * 4
    assert times_s[2] - times_s[1] == pytest.approx(40 * token_bytes * (1 / 50e6 - 1 / 500e6))
    for cell in found:
        pays = cell["ttft_hit_s"] - cell["restore_hit_s"] + 40 * token_bytes / cell["least_link_bytes_per_s"]
        assert pays == pytest.approx(cell["ttft_hit_full_s"])


def test_a_larger_budget_reuses_no_fewer_tokens(scenario) -> None:
    sets = ["prompts.documents=4", "prompts.num_requests=24", "cache.budget_frac=[0.05, 0.1, 0.3, 1.0]"]
    cells = run(scenario, *sets).summary["cells"]
    assert [cell["reused_tokens"] for cell in cells] == sorted(cell["reused_tokens"] for cell in cells)
    assert cells[0]["reused_tokens"] < cells[-1]["reused_tokens"]
    assert all(cell["kept_bytes"] <= cell["budget_bytes"] for cell in cells)


def test_tokens_that_stand_in_for_blocks_are_shared_as_the_blocks_are() -> None:
    choice = PromptsChoice(trace="agent-sessions", num_requests=300)
    prompts = prompts_of(choice, 49152, None)
    state = PromptCacheState(1, [TierBudget(tier="device")])
    reused = np.array([state.request(prompt)[0].shared_tokens for prompt in prompts])
    path = Path(__file__).parents[3] / "captures" / "agent-sessions.requests.jsonl.gz"
    rows = [row for row in open_requests(path, "full-blocks").requests if row.input_tokens][:300]
    blocks = gather(rows, block_tokens=16, source=path)
    hits = replay(blocks.blocks, blocks.starts, blocks.parents, policy="lru", budget_blocks=None).hits
    assert [prompt.size for prompt in prompts] == [row.input_tokens for row in rows]
    assert np.mean(reused == 16 * hits) > 0.99  # a token of the next block is alike by chance, once in a vocabulary
    assert np.all(reused - 16 * hits <= 2)


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["prompts.document_tokens=0"], "prompts share nothing: give document_tokens or system_tokens"),
        (["prompts.num_requests=500"], "1,500 tokens; the prompts need 4,040"),
        (["prompts.stream=python-doc"], "no such token stream; did you mean 'python-docs'?"),
        (["cache.policy=lur"], "did you mean 'lru'?"),
        (["cache.policy=arc"], "'lru', 'fifo', 'lfu' or 'sieve'"),
        (["cache.tier=disk"], "cache.tier"),
        (["cache.budget_bytes=100"], "tier device: 100 bytes hold no token, which takes 768"),
        (["cache.host_bytes=1 MiB"], "host_bytes is for tier = 'both'"),
        (["cache.budget_frac=1.5"], "cache.budget_frac"),
        (["prompts.document_token=3"], "did you mean 'document_tokens'?"),
    ],
)
def test_what_a_scenario_cannot_mean_is_told_in_a_line(scenario, overrides, error, capsys) -> None:
    assert error in refused(capsys, "run", str(scenario), *settings(overrides), "-o", str(scenario.parent / "results"))


@pytest.mark.parametrize(
    ("missing", "tier", "name"),
    [
        ("restore.host", "host", "restore.host"),
        ("store.device", "both", "store.device"),
        ("forward@1", "host", "of prefill"),
    ],
)
def test_a_profile_without_a_cost_says_which_and_still_counts(
    tiny_model_path, scenario, missing, tier, name, capsys
) -> None:
    whole = run(scenario, f"cache.tier={tier}").summary["cells"][0]
    write_tiny(tiny_model_path, scenario.parent, {name: table for name, table in TABLES.items() if name != missing})
    output = printed(capsys, "check", str(scenario), "--set", f"cache.tier={tier}")
    assert f"no cost {name}" in output
    summary = run(scenario, f"cache.tier={tier}").summary
    (cell,) = summary["cells"]
    assert [cell[name] for name in ("hits", "reused_tokens", "kept_bytes")] == [3, 120, whole["kept_bytes"]]
    assert cell["ttft_mean_s"] is cell["speedup"] is cell["least_link_bytes_per_s"] is None
    assert summary["verdict"][0] in output
    assert " -" in load_experiment("prompt-cache").show(summary)


def test_what_crosses_the_link_for_another_model_are_its_own_bytes(scenario) -> None:
    """Subtracting this model's bytes from another's table gave negative seconds."""
    profile = load_profile(scenario.parent / "p.toml")
    larger = ["model.shape.num_kv_heads=4", "model.shape.head_dim=64", "profile.allow_other_shape=true"]
    token_bytes = profile.shape.num_layers * 2 * 4 * 64 * profile.shape.dtype_bytes
    for rate_bytes_per_s in (BANDWIDTH_BYTES_PER_S, 1e8, 1e12):
        sets = ["cache.tier=host", f"cache.link_bytes_per_s={rate_bytes_per_s:.0f}"]
        (own,) = run(scenario, *sets).summary["cells"]
        (cell,) = run(scenario, *sets, *larger).summary["cells"]
        more_bytes = 40 * (token_bytes - profile.shape.num_layers * profile.shape.page_bytes(1))
        assert cell["restore_hit_s"] - own["restore_hit_s"] == pytest.approx(more_bytes / rate_bytes_per_s)
        assert cell["restore_hit_s"] >= 40 * token_bytes / rate_bytes_per_s
        assert cell["keep_mean_s"] > 0


def test_a_real_link_has_the_bandwidth_it_has(scenario, capsys) -> None:
    profile = load_profile(scenario.parent / "p.toml")
    link = profile.link.model_copy(update={"emulated": False})
    write_profile(profile.model_copy(update={"link": link}), scenario.parent / "p.toml")
    for command in ("check", "measure"):
        words = settings(["cache.tier=host", "cache.link_bytes_per_s=1 GB"])
        told = refused(capsys, command, str(scenario), *words)
        assert "cache.link_bytes_per_s is of a CPU's emulated link; test's is real" in told


def test_tokens_of_another_tokenizer_are_simulated_and_not_measured(scenario, capsys) -> None:
    """A simulation asks only which tokens are equal."""
    words = ["--set", "prompts.stream=python-docs", "-o", str(scenario.parent / "results")]
    printed(capsys, "run", str(scenario), *words, "--no-figures")
    told = refused(capsys, "measure", str(scenario), *words)
    assert "is none of the model's 256: prompts.stream = 'python-docs' was made with another tokenizer" in told


def test_a_prompt_longer_than_the_model_reads_is_told_before_anything_is_measured(scenario, capsys) -> None:
    words = settings(["prompts.document_tokens=600", "prompts.num_requests=2"])
    told = refused(capsys, "measure", str(scenario), *words, "-o", str(scenario.parent / "results"))
    assert "the longest prompt (prompts.max_tokens cuts them): 608 tokens, the model reads 512" in told


def test_table_and_picture_show_every_cell_and_both_say_where_loading_begins_to_pay(scenario, capsys) -> None:
    folder = scenario.parent / "results"
    words = settings(['cache.tier=["device","host"]', "prompts.document_tokens=[8,32,128]"])
    text = printed(capsys, "run", str(scenario), *words, "-o", str(folder))
    assert [text.count(f"\n{tier} ") for tier in ("device", "host")] == [4, 4]  # three cells and a break-even
    assert "loading beats computing" in text
    (picture,) = folder.rglob("prompt_cache.png")
    assert printed(capsys, "show", str(picture.parent)).splitlines()[0] in text
    printed(capsys, "run", str(scenario), "--set", "cache.budget_frac=[0.2,0.5]", "-o", str(folder))
    assert len(list(folder.rglob("prompt_cache.png"))) == 2


def test_equal_runs_give_equal_summaries(scenario, capsys) -> None:
    words = ["run", str(scenario), "-o", str(scenario.parent / "results"), "--json", "--no-figures"]
    first, second = (printed(capsys, *words, "--set", "prompts.documents=3") for _ in range(2))
    assert first == second


def test_a_real_run_reuses_and_gives_up_what_the_simulator_says(scenario, capsys) -> None:
    sets = ['cache.tier=["device", "host", "both"]', 'cache.policy=["lru", "lfu"]', "cache.budget_frac=0.15"]
    sets += ["prompts.documents=3", "prompts.num_requests=10", "cache.link_bytes_per_s=2 GB", "measure.repeats=2"]
    found = printed_json(capsys, "crosscheck", str(scenario), *settings(sets), "-o", str(scenario.parent / "r"))
    assert found["counts_equal"], found.get("divergence")
    assert found["requests_equal"]
    assert found["next_token_agreement_frac"] == 1
    assert found["max_logit_difference"] < 1e-3
    assert len(found["cells"]) == 6
    assert sum(cell["demoted_measured"] for cell in found["cells"]) > 0
    assert sum(cell["evicted_measured"] for cell in found["cells"]) > 0
    assert {path.name for path in (scenario.parent / "r").rglob("*.png")} >= {
        "prompt_cache_compared.png",
        "compare.png",
    }


def test_break_evens_stand_beside_each_other(scenario, capsys) -> None:
    sets = ["cache.tier=host", "prompts.document_tokens=[4, 64, 256]", "cache.link_bytes_per_s=3 MB"]
    found = printed_json(capsys, "crosscheck", str(scenario), *settings(sets), "-o", str(scenario.parent / "r"))
    (entry,) = found["break_evens"]
    assert entry["verdict"] == "never"  # a transfer of 3 MB/s lasts: 65 ms for 256 tokens of a model of three layers
    assert entry["simulated_verdict"] == "never" and entry["agrees"]
    assert entry["busy_verdict"] == "never" and entry["lengths"] == [4, 64, 256]


@pytest.mark.model
def test_the_trained_model_answers_alike_and_reuses_what_the_simulator_says(model_path, tmp_path, capsys) -> None:
    profile = load_profile(Path(__file__).parents[3] / "profiles" / "cpu-smollm2-135m.toml")
    write_profile(
        profile.model_copy(update={"caches": TABLES, "kind": "exact"}), tmp_path / "p.toml"
    )  # counts ask for no cost
    sets = ["prompts.document_tokens=[8, 128]", f'model.path="{model_path}"', "measure.repeats=1", "cache.tier=host"]
    sets += ["cache.link_bytes_per_s=200 MB", f'profile.path="{tmp_path / "p.toml"}"']
    found = printed_json(capsys, "crosscheck", "prompt_cache", *settings(sets), "-o", str(tmp_path))
    assert found["counts_equal"] and found["requests_equal"]
    assert found["next_token_agreement_frac"] == 1
    assert found["max_logit_difference"] < 1
    assert [cell["reused_tokens_measured"] for cell in found["cells"]] == [16, 256]
