"""A scenario says what it means or is refused: every fault in one line, all at once, whatever the file holds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvsim.errors import ScenarioError
from kvsim.scenario.decode import MAX_CELLS, Scenario, load_scenario
from kvsim.scenario.shipped import find_scenario

GOOD = """\
schema_version = 1
name = "demo"
page_tokens = 64
[model]
shape = "llama-3-8b"
[profile]
path = "some-profile"
device_memory = "24 GiB"
[trace]
path = "some-trace"
[trace.extrapolate]
context_tokens = 32768
[budget]
context_frac = 0.25
[selector]
name = "top-k"
k_pages = 32
channel = "estimate:quest"
[run]
policies = ["resident", "stream", {name = "lru", label = "least recent"}]
seed = 7
[sweep]
"trace.extrapolate.context_tokens" = [32768, 65536]
"budget.context_frac" = [0.1, 0.25, 0.5]
"""

Load = Callable[..., Scenario]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def from_text(text: str = GOOD, *overrides: str) -> Scenario:
        path = tmp_path / "x.toml"
        path.write_text(text, encoding="utf-8")
        return load_scenario(path, overrides)

    return from_text


@pytest.fixture
def faults(load: Load) -> Callable[..., list[str]]:
    def from_text(text: str = GOOD, *overrides: str) -> list[str]:
        with pytest.raises(ScenarioError) as caught:
            load(text, *overrides)
        return [line.partition("x.toml")[2].removeprefix(" with --set").removeprefix(": ") for line in lines(caught)]

    return from_text


def lines(caught: pytest.ExceptionInfo[ScenarioError]) -> list[str]:
    return str(caught.value).splitlines()


def test_a_good_scenario_is_read_with_sizes_in_bytes_and_policies_as_choices(load: Load) -> None:
    scenario = load()
    assert scenario.profile.device_memory == 24 * 2**30
    assert [policy.shown for policy in scenario.run.policies] == ["resident", "stream", "least recent"]
    assert scenario.output.folder == "results"


FAULTS = [
    ("page_tokens", "page_token", "unknown key 'page_token'; did you mean 'page_tokens'?"),
    ("k_pages", "k_page", "unknown key 'selector.k_page'; did you mean 'k_pages'?"),
    ("context_tokens = ", "context_token = ", "unknown key 'trace.extrapolate.context_token'; did you mean 'context_t"),
    ("[budget]", "[budgte]", "unknown key 'budgte'; did you mean 'budget'?"),
    ("page_tokens = 64", "page_tokens = 64\nseed = 3", "unknown key 'seed'; did you mean 'run.seed'?"),
    (
        "seed = 7",
        "seed = 7\nzzz = 1",
        "unknown key 'run.zzz'; known: batch, devices, layers_per_device, policies, prefill_chunk_tokens, repet",
    ),
    (
        '"llama-3-8b"',
        '"lama-3-8b"',
        "model.shape: unknown shape 'lama-3-8b' (a name, a path, or a table of all sizes); did you m",
    ),
    ('"llama-3-8b"', "3", "model.shape: should be text in quotes or a table, found 3"),
    ('"24 GiB"', '"24 gib"', "profile.device_memory: '24 gib' is no size: write a number and one of B, KB, MB"),
    ('"24 GiB"', "-4", "profile.device_memory: should be greater than 0, found -4"),
    ('"24 GiB"', "9223372036854775807", "profile.device_memory: should be less than 4 EiB, found 922337203685"),
    ("context_frac = 0.25", "bytes = 4.5", "budget.bytes: should be a whole number, found 4.5"),
    ("context_frac = 0.25", "", "budget: give exactly one of pages_per_layer, bytes and context_frac, found none"),
    (
        "context_frac = 0.25",
        "bytes = 1\ncontext_frac = 0.2",
        "budget: give exactly one of pages_per_layer, bytes and c",
    ),
    ("context_frac = 0.25", "context_frac = 1.25", "budget.context_frac: should be at most 1, found 1.25"),
    ("context_frac = 0.25", "context_frac = nan", "budget.context_frac: should be a finite number, found nan"),
    ("page_tokens = 64", "page_tokens = 16.7", "page_tokens: should be a whole number, found 16.7"),
    ("page_tokens = 64", 'page_tokens = "64"', "page_tokens: should be a whole number, found '64'"),
    ("page_tokens = 64", "page_tokens = 40", "page_tokens: should be a multiple of 16 (the unit of a trace), found 40"),
    (
        '"top-k"',
        '"topk"',
        "selector.name: should be 'full', 'top-k' or 'threshold', found 'topk'; did you mean 'top-k'?",
    ),
    ('"top-k"', '"threshold"', "selector: selector 'threshold' needs threshold, the share of the score to reach"),
    ("k_pages = 32", "", "selector: selector 'top-k' needs k_pages"),
    ("k_pages = 32", "k_pages = 32\nthreshold = 0.9", "selector: threshold is for selector 'threshold', found selec"),
    (
        '"estimate:quest"',
        '"estmate:quest"',
        "selector.channel: unknown channel 'estmate:quest'; did you mean 'estimate:",
    ),
    ('["resident", "stream",', "[3,", "run.policies.0: should be a name in quotes or a table with a name, found 3"),
    ('name = "lru"', 'nam = "lru"', "unknown key 'run.policies.2.nam'; did you mean 'name'?"),
    (
        'label = "least recent"',
        "arguments = {a = [[1]]}",
        "run.policies.2.arguments.a: should be text in quotes or a nu",
    ),
    ("seed = 7", "seed = true", "run.seed: should be a whole number, found true"),
    ("seed = 7", "seed = 2020-01-01", "run.seed: should be a whole number, found 2020-01-01"),
    ("seed = 7", "seed = -1", "run.seed: should be at least 0, found -1"),
    ("seed = 7", "seed = 99999999999999999999", "not valid TOML: an integer of more than 64 bits"),
    ("seed = 7", "seed = " + "9" * 5000, "not valid TOML: "),
    ("schema_version = 1", "schema_version = 2", "schema_version: should be 1, found 2"),
    (
        'name = "demo"',
        'name = "a b"',
        "name: should be up to 64 letters, digits, '_', '.' and '-', a letter or digit fir",
    ),
    (
        'name = "demo"',
        'name = "../up"',
        "name: should be up to 64 letters, digits, '_', '.' and '-', a letter or digit f",
    ),
    ('path = "some-trace"', "", "trace.path: missing; it has no default"),
    ('[model]\nshape = "llama-3-8b"', "", "model: missing; it has no default"),
    ('[model]\nshape = "llama-3-8b"', 'model = "llama-3-8b"', "model: should be a table, found 'llama-3-8b'"),
    ('"budget.context_frac" = [', '"budget.context_fra" = [', "sweep: unknown key 'budget.context_fra'; did you mean"),
    ("[0.1, 0.25, 0.5]", "[]", "sweep: budget.context_frac: an empty list; give at least one value"),
    ("[0.1, 0.25, 0.5]", "0.5", 'sweep."budget.context_frac": should be a list, found 0.5'),
    ("[0.1, 0.25, 0.5]", "[0.1, 2.0]", "sweep: budget.context_frac: should be at most 1, found 2.0"),
    ("[0.1, 0.25, 0.5]", "[0.1, [2]]", "sweep: budget.context_frac: should be a number, found a list"),
    ('"budget.context_frac" =', '"page_tokens.x" =', "sweep: page_tokens.x: page_tokens is no table, so 'x' cannot be"),
    ('"budget.context_frac" =', '"name" =', "sweep: name cannot be swept"),
    ('"budget.context_frac" =', '"run.policies" =', "sweep: run.policies cannot be swept: every policy of run.pol"),
    (
        '"budget.context_frac" =',
        '"budget.bytes" = [1]\n"budget.context_frac" =',
        "sweep: budget.bytes and budget.context_",
    ),
    (
        '"stream"',
        '{name = "stream", arguments = {depth = []}}',
        "run.policies: argument 'depth' of 'stream': an empty list; give at least one value",
    ),
    ("seed = 7", "seed = = 7", "not valid TOML: Invalid value (at line 21, column 8)"),
]


@pytest.mark.parametrize(("good", "bad", "line"), FAULTS, ids=[bad[:40] for _, bad, _ in FAULTS])
def test_a_fault_is_told_in_one_line_with_its_key_and_what_is_right(
    faults: Callable[..., list[str]], good: str, bad: str, line: str
) -> None:
    assert GOOD.count(good) >= 1
    found = faults(GOOD.replace(good, bad, 1))
    assert len(found) == 1
    assert found[0].startswith(line)


def test_all_faults_of_a_file_are_told_at_once(faults: Callable[..., list[str]]) -> None:
    text = GOOD.replace("page_tokens = 64", "page_tokens = 40").replace("seed = 7", "seed = -7\nbatch = 0")
    text = text.replace("k_pages", "k_page").replace("0.5]", "5.5]") + "[outptu]\n"
    assert sorted(faults(text)) == [
        "page_tokens: should be a multiple of 16 (the unit of a trace), found 40",
        "run.batch: should be greater than 0, found 0",
        "run.seed: should be at least 0, found -7",
        "sweep: budget.context_frac: should be at most 1, found 5.5",
        "unknown key 'outptu'; did you mean 'output'?",
        "unknown key 'selector.k_page'; did you mean 'k_pages'?",
    ]


def test_a_shape_given_by_hand_is_told_only_its_own_faults(faults: Callable[..., list[str]]) -> None:
    sizes = "num_layers=2, hidden_size=64, num_heads=4, num_kv_heads=2, head_dim=16, vocab_size=9, dtype='bf16'"
    text = GOOD.replace('"llama-3-8b"', "{" + sizes + ", intermediate_sizes=128}")
    assert faults(text) == [
        "model.shape.tied_embeddings: missing; it has no default",
        "unknown key 'model.shape.intermediate_sizes'; did you mean 'intermediate_size'?",
    ]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "a folder, not a file"),
        (lambda path: path.write_bytes(b"name = '\xff'"), "not UTF-8 text"),
        (lambda path: path.write_text("a = " + "[" * 100_000), "not valid TOML: "),
        (os.mkfifo, "a named pipe, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "a device, not a file"),
        (lambda path: path.write_text("#" * (2**26 + 1)), "larger than 64 MiB, which no file of this kind is"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(tmp_path: Path, make: Callable[[Path], Any], problem: str) -> None:
    path = tmp_path / "x.toml"
    make(path)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    assert len(lines(caught)) == 1
    assert lines(caught)[0].startswith(f"{path}: {problem}")


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xef\xbb\xbf" + find_scenario("smollm2_cpu").read_bytes())
    assert load_scenario(path) == load_scenario(find_scenario("smollm2_cpu"))


def test_expand_makes_every_combination_in_the_order_of_the_file(load: Load) -> None:
    cells = load().cells
    contexts = [cell.trace.extrapolate.context_tokens for cell in cells if cell.trace.extrapolate]
    assert contexts == [32768] * 3 + [65536] * 3
    assert [cell.budget.context_frac for cell in cells] == [0.1, 0.25, 0.5] * 2
    assert not any(cell.sweep for cell in cells)


EXCLUDE = """
[[exclude]]
"trace.extrapolate.context_tokens" = [65536]
"budget.context_frac" = [0.1, 0.5]
"""


def test_an_argument_given_as_a_list_makes_a_policy_of_each_combination(load: Load) -> None:
    listed = '{name = "lru", label = "least recent", arguments = {k = [1, 2], b = "x", a = [true, false]}}'
    scenario = load(GOOD.replace('{name = "lru", label = "least recent"}', listed))
    made = scenario.run.policies[2:]
    assert [choice.shown for choice in made] == [f"least recent(k={k}, a={a})" for k in (1, 2) for a in (True, False)]
    assert [choice.arguments for choice in made] == [{"k": k, "b": "x", "a": a} for k in (1, 2) for a in (True, False)]
    assert [len(cell.run.policies) for cell in scenario.cells] == [6] * 6


def kept(scenario: Scenario) -> list[tuple[int, float | None]]:
    return [
        (cell.trace.extrapolate.context_tokens, cell.budget.context_frac)
        for cell in scenario.cells
        if cell.trace.extrapolate
    ]


def test_excluded_combinations_are_left_out_and_no_others(load: Load) -> None:
    assert kept(load(GOOD + EXCLUDE)) == [(32768, 0.1), (32768, 0.25), (32768, 0.5), (65536, 0.25)]


def test_a_field_of_a_rule_may_stand_in_the_file_unswept(load: Load) -> None:
    rule = '\n[[exclude]]\n"run.seed" = [{}]\n"budget.context_frac" = [0.1]\n'
    assert [budget for _, budget in kept(load(GOOD + rule.format(7)))] == [0.25, 0.5] * 2
    assert kept(load(GOOD + rule.format(8))) == kept(load())


def test_set_can_drop_the_rules_or_narrow_what_they_apply_to(load: Load) -> None:
    assert kept(load(GOOD + EXCLUDE, "exclude=[]")) == kept(load())
    assert kept(load(GOOD + EXCLUDE, "trace.extrapolate.context_tokens=65536")) == [(65536, 0.25)]


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ("", "exclude: an empty table; name the fields and values to leave out"),
        (
            '"budget.context_fra" = [0.1]',
            "exclude: \"budget.context_fra\" is neither swept nor given; did you mean 'budget.context_frac'?",
        ),
        ('"run.seed" = [7]', "exclude: leaves no combination of [sweep]"),
    ],
)
def test_a_rule_that_leaves_nothing_out_or_nothing_over_is_refused(
    faults: Callable[..., list[str]], rule: str, fault: str
) -> None:
    assert faults(f"{GOOD}\n[[exclude]]\n{rule}\n") == [fault]


def test_a_scenario_without_the_younger_fields_has_the_hash_it_always_had(load: Load) -> None:
    assert load(GOOD, "exclude=[]").hash == load().hash == "773149fabc7c3225"
    assert load(GOOD + EXCLUDE).hash != load().hash
    assert load(GOOD, "trace.channel=mass").hash != load().hash
    assert load(GOOD, "model.quantisation=8bit").hash != load().hash


def test_a_dotted_sweep_key_needs_no_quotes(load: Load) -> None:
    assert load(GOOD.replace('"trace.extrapolate.context_tokens"', "trace.extrapolate.context_tokens")) == load()


def test_a_sweep_of_more_cells_than_anybody_waits_for_is_refused(faults: Callable[..., list[str]]) -> None:
    seeds = ", ".join(str(seed) for seed in range(MAX_CELLS))
    assert faults(GOOD + f'"run.seed" = [{seeds}]') == [f"sweep: {6 * MAX_CELLS} combinations; at most {MAX_CELLS}"]


def test_equal_scenarios_have_equal_hashes_and_others_do_not(load: Load) -> None:
    assert load().hash == load().hash
    assert load(GOOD, "run.seed=8").hash != load().hash


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("run.seed=9", lambda s: s.run.seed == 9),
        ("run.seed = 9", lambda s: s.run.seed == 9),
        ("model.shape=llama-3.2-1b", lambda s: s.model.shape == "llama-3.2-1b"),
        ('model.shape="llama-3.2-1b"', lambda s: s.model.shape == "llama-3.2-1b"),
        ("profile.device_memory=16 GiB", lambda s: s.profile.device_memory == 2**34),
        ("output.figures=false", lambda s: not s.output.figures),
        ("prefetch.quota_pages=3", lambda s: s.prefetch.quota_pages == 3),
        ("run.policies=lru", lambda s: [p.name for p in s.run.policies] == ["lru"]),
        ("run.policies=lru, stream", lambda s: [p.name for p in s.run.policies] == ["lru", "stream"]),
        ('run.policies=["lru"]', lambda s: [p.name for p in s.run.policies] == ["lru"]),
        ("budget.context_frac=0.5", lambda s: s.budget.context_frac == 0.5 and "budget.context_frac" not in s.sweep),
        ("budget.context_frac=[0.5, 0.7]", lambda s: s.sweep["budget.context_frac"] == (0.5, 0.7)),
        ("sweep.budget.context_frac=[0.7]", lambda s: s.sweep["budget.context_frac"] == (0.7,)),
        ("budget.pages_per_layer=64", lambda s: (s.budget.pages_per_layer, s.budget.context_frac) == (64, None)),
        ("budget.pages_per_layer=64", lambda s: list(s.sweep) == ["trace.extrapolate.context_tokens"]),
        ("budget.pages_per_layer=[64, 65]", lambda s: [c.budget.pages_per_layer for c in s.cells] == [64, 65] * 2),
    ],
)
def test_set_overrides_any_field_and_what_swept_it(
    load: Load, override: str, value: Callable[[Scenario], bool]
) -> None:
    assert value(load(GOOD, override))


def test_a_later_override_wins(load: Load) -> None:
    assert load(GOOD, "run.seed=1", "run.seed=2").run.seed == 2


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("run.seed", "--set 'run.seed': write KEY=VALUE, as in --set budget.pages_per_layer=64"),
        ("=3", "--set '=3': write KEY=VALUE, as in --set budget.pages_per_layer=64"),
        ("run.sed=3", "x.toml with --set: unknown key 'run.sed'; did you mean 'seed'?"),
        ("page_tokens.x=3", "page_tokens.x: page_tokens is no table, so 'x' cannot be set in it"),
        ("run.seed=4\nname = 'other'", "x.toml with --set: run.seed: should be a whole number, found \"4\\nname = 'ot"),
    ],
)
def test_a_faulty_override_is_told_in_one_line(load: Load, tmp_path: Path, override: str, line: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(GOOD, override)
    assert len(lines(caught)) == 1
    assert lines(caught)[0].removeprefix(f"{tmp_path}/").startswith(line)
