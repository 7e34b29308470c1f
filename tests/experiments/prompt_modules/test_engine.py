"""Stored modules on a real (tiny) model: masks, positions and tiers change no number; counts equal the simulator's."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from kvsim.engine.links.page_pool import EngineError
from kvsim.engine.links.states import make_link
from kvsim.engine.model.forward import CACHE_ARGUMENT
from kvsim.experiments.prompt_modules.accounting import ModuleStoreState
from kvsim.experiments.prompt_modules.engine.run import ModuleRunner, ModuleStore
from kvsim.experiments.prompt_modules.schema import Assembly, assemble, lay_out, parse_prompts, parse_schema
from kvsim.experiments.prompt_modules.schema.markup import parse_markup

SCHEMA = """<schema name="trip">
  You plan trips.
  <module name="plan">Stay <parameter name="days" length="6"/> days.
    <module name="tips">Pack light.</module>
    <union><module name="city">Museums and trams.</module><module name="coast">Sun.</module></union>
    Book early.
  </module>
  <module name="budget">Spend little.</module>
</schema>"""
TEXTS = (
    '<plan days="three"><tips/><coast/></plan><budget/>Where to?',
    "<budget/>How?",
    '<plan days="two"/>When?',
    "<plan><city/></plan><budget/>Who?",
)
LAYOUT = lay_out(parse_schema(parse_markup(SCHEMA, "s.xml")), len)
TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}


def ids_of(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def assembly_of(text: str) -> Assembly:
    (prompt,) = parse_prompts(parse_markup(f'<prompt schema="trip">{text}</prompt>', "p.xml"), LAYOUT.schema)
    return assemble(LAYOUT, prompt, len)


ASSEMBLIES = [assembly_of(text) for text in TEXTS]


@pytest.fixture(scope="module")
def link():
    link = make_link("cpu", 1e9)
    yield link
    link.close()


@pytest.fixture(scope="module")
def runner(tiny_model, link) -> ModuleRunner:
    return ModuleRunner(tiny_model, LAYOUT, ids_of, placeholder_id=0, link=link)


def states_of(runner: ModuleRunner, assembly: Assembly) -> dict:
    return {unit: runner.encode(LAYOUT.units[unit]) for unit in assembly.units}


def test_all_modules_in_one_pass_under_the_module_mask_have_the_states_that_each_has_alone(runner) -> None:
    together = runner.encode_together(LAYOUT.units)
    assert len(together) == len(LAYOUT.units) == 6
    for unit, states in zip(LAYOUT.units, together, strict=True):
        torch.testing.assert_close(states.tensor, runner.encode(unit).tensor, **TOLERANCE)


def test_modules_that_see_each_other_have_other_states(tiny_model, runner) -> None:
    first, second = LAYOUT.units[0], LAYOUT.units[5]
    ids = [token for unit in (first, second) for token in ids_of("".join(str(span.text) for span in unit.spans))]
    cache = DynamicCache(config=tiny_model.config)
    with torch.inference_mode():
        tiny_model(
            torch.tensor([ids]),
            position_ids=torch.tensor([[*first.positions, *second.positions]]),
            **{CACHE_ARGUMENT: cache},
        )
    apart = cache.layers[2].keys[0, :, first.num_tokens :] - runner.encode(second).tensor[2, 0]
    assert apart.abs().max() > 100 * TOLERANCE["atol"]


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_a_prompt_put_together_is_one_pass_under_the_mask_of_its_modules(tiny_model, runner, number: int) -> None:
    """Units see themselves, placeholders too; arguments and new text see all but placeholders."""
    assembly = ASSEMBLIES[number]
    ids, positions, owners, is_read = [], [], [], []
    for unit in (LAYOUT.units[unit] for unit in assembly.units):
        for span in unit.spans:
            ids += ids_of(span.text) if span.text is not None else [0] * span.num_tokens
            positions += range(span.start, span.stop)
            owners += [unit.number] * span.num_tokens
            is_read += [span.text is not None] * span.num_tokens
    for fresh in assembly.fresh:
        ids += ids_of(fresh.text)
        positions += range(fresh.position, fresh.position + fresh.num_tokens)
        owners += [-1] * fresh.num_tokens
        is_read += [True] * fresh.num_tokens
    size = len(ids)
    mask = torch.full((size, size), -torch.inf)
    for i in range(size):
        for j in range(i + 1):
            if owners[i] == owners[j] or (owners[i] == -1 and is_read[j]):
                mask[i, j] = 0
    with torch.inference_mode():
        expected = tiny_model(
            torch.tensor([ids]), position_ids=torch.tensor([positions]), attention_mask=mask[None, None]
        ).logits[0, -1]
    logits, cache = runner.first(assembly, states_of(runner, assembly))
    torch.testing.assert_close(logits, expected, **TOLERANCE)
    assert cache.get_seq_length() == assembly.num_tokens


def test_text_before_new_text_without_a_gap_is_full_attention(tiny_model, link) -> None:
    layout = lay_out(parse_schema(parse_markup('<schema name="trip">You plan trips.</schema>', "s.xml")), len)
    (prompt,) = parse_prompts(parse_markup('<prompt schema="trip">Where?</prompt>', "p.xml"), layout.schema)
    assembly = assemble(layout, prompt, len)
    runner = ModuleRunner(tiny_model, layout, ids_of, placeholder_id=0, link=link, chunk_tokens=5)
    first, cache = runner.first(assembly, {0: runner.encode(layout.units[0])})
    answered, whole = runner.full(assembly)
    torch.testing.assert_close(first, answered.logits, **TOLERANCE)
    full, fed = runner.follow(whole, answered.logits, assembly.num_tokens, 6, None)
    same, again = runner.follow(cache, first, assembly.end, 6, fed)
    torch.testing.assert_close(same, full, **TOLERANCE)
    assert fed == again == full[:-1].argmax(-1).tolist()


def test_states_of_placeholders_are_never_read_but_those_of_words_are(runner) -> None:
    assembly = ASSEMBLIES[0]
    plan = LAYOUT.units[1]
    states = states_of(runner, assembly)
    before, _ = runner.first(assembly, states)
    room = slice(plan.spans[0].num_tokens, plan.spans[0].num_tokens + 6)
    poisoned = states[1].tensor.clone()
    poisoned[:, :, :, room] = torch.nan
    after, _ = runner.first(assembly, states | {1: dataclasses.replace(states[1], tensor=poisoned)})
    assert torch.equal(before, after)
    poisoned[:, :, :, room.stop] = torch.nan
    broken, _ = runner.first(assembly, states | {1: dataclasses.replace(states[1], tensor=poisoned)})
    assert broken.isnan().all()


def test_an_argument_that_sees_only_what_is_before_it_does_not_see_later_modules(tiny_model, link) -> None:
    first, second = (assembly_of(f'<plan days="three"/>{budget}Go') for budget in ("", "<budget/>"))
    for seen, is_same in (("before", True), ("all", False)):
        runner = ModuleRunner(tiny_model, LAYOUT, ids_of, placeholder_id=0, link=link, seen=seen, chunk_tokens=4)
        keys = []
        for assembly in (first, second):
            _, cache = runner.first(assembly, states_of(runner, assembly))
            start = assembly.reused_tokens
            keys.append(cache.layers[2].keys[0, :, start : start + assembly.fresh[0].num_tokens])
        assert torch.allclose(*keys, **TOLERANCE) == is_same


def test_the_tier_changes_no_logit_and_a_prompt_comes_in_one_transfer(tiny_model) -> None:
    link = make_link("cpu", 1e9)
    runner = ModuleRunner(tiny_model, LAYOUT, ids_of, placeholder_id=0, link=link)
    found = {}
    for tier in ("device", "host"):
        state, store = ModuleStoreState("lru", budget_units=6, num_units=6), ModuleStore(tier, link)
        runner.answer(ASSEMBLIES[0], state, store)
        transfers = link.num_transfers
        found[tier] = runner.answer(ASSEMBLIES[0], state, store)
        assert link.num_transfers - transfers == (1 if tier == "host" else 0)
        assert found[tier].misses == 0 and found[tier].hits == len(store) == 5
    link.close()
    assert torch.equal(found["device"].logits, found["host"].logits)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=6),
    budget=st.integers(1, 6),
    policy=st.sampled_from(["lru", "fifo", "second-touch", "belady"]),
)
def test_what_the_engine_counts_is_what_the_books_predict(runner, link, requests, budget, policy) -> None:
    future = [unit for request in requests for unit in ASSEMBLIES[request].units]
    live, predicted = (ModuleStoreState(policy, budget_units=budget, num_units=6, future=future) for _ in range(2))
    store = ModuleStore("device", link)
    for request in requests:
        found = runner.answer(ASSEMBLIES[request], live, store)
        served = predicted.serve(ASSEMBLIES[request].units)
        assert found.hits == served.num_hits
        assert found.misses == len(served.units) - served.num_hits
        assert found.evictions == served.num_evicted
        token_bytes = 3 * 2 * 2 * 16 * 4  # layers, K and V, heads, head_dim, fp32
        assert found.held_bytes == token_bytes * sum(LAYOUT.units[unit].num_tokens for unit in predicted.stored)


def test_a_store_that_lost_a_unit_is_told(runner, link) -> None:
    state, store = ModuleStoreState("lru", budget_units=6, num_units=6), ModuleStore("device", link)
    runner.answer(ASSEMBLIES[1], state, store)
    store.drop(0)
    with pytest.raises(EngineError, match="unit 0 is not in the store"):
        runner.answer(ASSEMBLIES[1], state, store)
