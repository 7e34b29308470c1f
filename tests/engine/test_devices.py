"""A model whose layers lie on several devices: each has pages, a budget, a link and a policy of its own."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kvsim.engine.links.base import EmulatedLink  # noqa: E402
from kvsim.engine.model.placement import device_layers_of  # noqa: E402
from kvsim.engine.paged.split_run import SplitRun  # noqa: E402
from kvsim.errors import CapacityError, KvsimError, ScenarioError  # noqa: E402
from tests.engine.decoding import FULL, cache_of  # noqa: E402
from tests.engine.families.models import LAYER_TYPES, tiny_model_of  # noqa: E402
from tests.engine.test_paged_cache import assert_untouched, generate, link_threads  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPT_TOKENS, NEW_TOKENS = 150, 30
SLOW_PAGE_S = 0.03
TWO = "run.devices=2"


@pytest.fixture(scope="module")
def model():
    """Return a model of enough layers for three devices that cannot hold all their pages."""
    return tiny_model_of("llama", num_hidden_layers=9)


@pytest.fixture
def ids():
    return torch.randint(3, 256, (2, PROMPT_TOKENS), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def spread():
    """Return how to mark a model as spread over devices, which share the host here; the marks go with the test."""
    marked = []

    def spread(model, *num_layers, prefix="model.layers"):
        device_of = [device for device, count in enumerate(num_layers) for _ in range(count)]
        model.hf_device_map = {"model.embed_tokens": 0, "lm_head": len(num_layers) - 1}
        model.hf_device_map |= {f"{prefix}.{layer}": device for layer, device in enumerate(device_of)}
        marked.append(model)
        return model

    yield spread
    for model in marked:
        del model.hf_device_map


def cache_for(model, *overrides, policy="lru", pages=8, batch=2, **options):
    policies = f"run.policies=[{policy!r}]" if policy[0] != "{" else f"run.policies=[{policy}]"
    options.setdefault("max_tokens", PROMPT_TOKENS + NEW_TOKENS)
    return cache_of(model, "selector.k_pages=3", policies, *overrides, pages=pages, batch=batch, **options)


def run_of(cache) -> SplitRun:
    run = cache.session._run
    assert isinstance(run, SplitRun)
    return run


POLICIES = [("resident", 1), ("stream", 10), ("lru", 7), ("attention", 7), ("sink-window", 12)]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    "how", [("run.devices=2",), ("run.devices=2", "run.layers_per_device=[3, 6]"), ("run.devices=3",)]
)
@pytest.mark.parametrize(("policy", "pages"), POLICIES)
def test_greedy_tokens_are_those_of_the_default_cache(model, ids, policy, pages, how, batch):
    expected = generate(model, ids[:batch], max_new_tokens=NEW_TOKENS)
    with cache_for(model, FULL, *how, policy=policy, pages=pages, batch=batch) as cache:
        assert torch.equal(generate(model, ids[:batch], cache, max_new_tokens=NEW_TOKENS), expected)
        assert len(link_threads()) == 2 * len(run_of(cache).runs)
    assert (cache.report().to_device_bytes > 0) == (policy in ("stream", "lru", "attention"))
    assert_untouched(model)


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("gpt2", {"n_layer": 6}),
        ("gemma3_text", {"num_hidden_layers": 12, "layer_types": 2 * LAYER_TYPES}),
        ("deepseek_v2", {"num_hidden_layers": 6}),
        ("qwen3_moe", {"num_hidden_layers": 6}),
    ],
)
def test_families_decode_on_several_devices(family, sizes):
    model = tiny_model_of(family, **sizes)
    ids = torch.randint(3, 256, (1, PROMPT_TOKENS), generator=torch.Generator().manual_seed(3))
    expected = generate(model, ids, max_new_tokens=NEW_TOKENS)
    how = () if family == "gemma3_text" else (TWO,)
    if family == "gemma3_text":  # layers with windows have no pages, wherever they lie
        model.hf_device_map = {f"model.layers.{layer}": int(layer > 5) for layer in range(12)}
    with cache_for(model, FULL, *how, pages=8, batch=1) as cache:
        assert torch.equal(generate(model, ids, cache, max_new_tokens=NEW_TOKENS), expected)
        assert [len(share.layers) for share in run_of(cache).run_input.devices] == [3, 3]
    assert cache.report().misses > 0


def test_layers_stay_where_the_model_has_them(model, ids, spread):
    """What ``device_map="auto"`` leaves says which layers lie together; devices share the host here."""
    expected = generate(model, ids, max_new_tokens=NEW_TOKENS)
    with cache_for(spread(model, 4, 5), FULL, pages=7) as cache:
        assert torch.equal(generate(model, ids, cache, max_new_tokens=NEW_TOKENS), expected)
        assert [share.layers for share in run_of(cache).run_input.devices] == [range(4), range(4, 9)]


def test_each_device_keeps_to_its_budget_and_its_link_carries_its_own_layers_pages(model, ids):
    held = []
    with cache_for(model, "run.devices=2", "run.layers_per_device=[6, 3]", pages=7) as cache:
        start = ids
        for _ in range(NEW_TOKENS // 3):
            start = generate(model, start, cache, max_new_tokens=3)
            runs = run_of(cache).runs
            held.append([int((run.pool.slot_of >= 0).sum()) for run in runs])
        budgets = [7 * 6 * 2, 7 * 3 * 2]
        assert (np.array(held).max(axis=0) == budgets).all()
        for run, layers in zip(runs, (6, 3), strict=True):
            transfers = run.link.drain()
            assert len(transfers) > 0
            pages = np.concatenate([transfer.pages for transfer in transfers])
            assert set(run.pool.grid.layer_of(pages)) == set(range(layers))
            assert run.pool.grid.num_layers == layers
        carried = sum(transfer.num_copied for run in runs for transfer in run.link.drain())
        report = cache.report()
        assert carried * runs[0].pool.page_bytes == report.to_device_bytes + report.to_host_bytes > 0


def test_demand_on_one_link_does_not_wait_for_the_others(model, ids):
    """Device 0's link is slow and prefetches on it go on all the time: demand on device 1's starts at once."""
    made = []
    with cache_for(model, TWO, policy="{name='lru', arguments={prefetch='next-step'}}", pages=7, batch=1) as cache:
        fast = cache.session._make_link

        def make_link(pool):
            made.append(EmulatedLink(pool, pool.page_bytes / SLOW_PAGE_S) if not made else fast(pool))
            return made[-1]

        cache.session._make_link = make_link
        generate(model, ids[:1], cache, max_new_tokens=12)
        slow, quick = (link.drain() for link in made)
    assert min(move.end_s - move.start_s for move in slow) > 0.9 * SLOW_PAGE_S
    demands = [move for move in quick if move.kind == "demand"]
    meanwhile = [move for move in demands if any(own.start_s < move.submitted_s < own.end_s for own in slow)]
    assert meanwhile  # or nothing was put to the test
    assert all(move.start_s - move.submitted_s < SLOW_PAGE_S / 2 for move in meanwhile)


def test_what_several_devices_select_and_count_is_the_same_alone_where_pools_are_by_layer(model, ids):
    """With a pool a layer, layers do not compete, so that it makes no difference on which device they lie."""
    reports = []
    for how in ((), (TWO,), ("run.devices=3",)):
        with cache_for(model, *how, "budget.partition='per_layer'", pages=7) as cache:
            tokens = generate(model, ids, cache, max_new_tokens=NEW_TOKENS)
        reports.append((tokens.tolist(), dataclasses.replace(cache.report(), late=0)))
    assert reports[0] == reports[1] == reports[2]
    assert reports[0][1].misses > 0
    assert 0.5 < reports[0][1].score_recall_frac < 1


def test_a_copy_of_a_cache_on_several_devices_goes_on_as_the_original(model, ids):
    policy = "{name='arc', arguments={prefetch='speculation'}}"
    with cache_for(model, TWO, policy=policy, pages=7) as cache:
        start = generate(model, ids, cache, max_new_tokens=NEW_TOKENS // 2)
        with copy.deepcopy(cache) as copied:
            end = generate(model, start, copied, max_new_tokens=NEW_TOKENS // 2)
            assert torch.equal(end, generate(model, start, cache, max_new_tokens=NEW_TOKENS // 2))
            reports = [dataclasses.replace(one.report(), late=0) for one in (cache, copied)]
            assert reports[0] == reports[1]
            assert reports[0].prefetched > 0
    assert_untouched(model)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (("run.devices=4",), ScenarioError, "run.devices = 4: the model has 3 layers"),
        (("run.devices=2", "run.layers_per_device=[2, 2]"), ScenarioError, "has 4 layers in all, the model has 3"),
        (("run.layers_per_device=[2, 1]",), ScenarioError, "has 2 numbers for devices = 1; give one for each"),
        ((TWO, "selector.channel='speculate:next-layer'"), ScenarioError, "predicts nothing for the first layer"),
        ((TWO, "budget.pages_per_layer=2"), CapacityError, "set budget.pages_per_layer to at least"),
        ((TWO, "run.layers_per_device=[1, 2]"), ScenarioError, "run.devices has 1, 2 layers a device, the model lies"),
    ],
)
def test_devices_that_do_not_do_are_one_line(tiny_model, spread, overrides, error, message):
    if "the model lies" in message:
        spread(tiny_model, 2, 1)
    with pytest.raises(error, match=message) as caught:
        cache_for(tiny_model, *overrides)
    assert "\n" not in str(caught.value)
    assert_untouched(tiny_model)


@pytest.mark.parametrize(
    ("device_map", "expected"),
    [
        ({"": 0}, [3]),
        ({"": "cpu"}, [3]),
        ({"model": 0, "model.layers.2": 1, "lm_head": 1}, [2, 1]),
        ({"model.layers.0": 0, "model.layers.1": 1, "model.layers.2": 2}, [1, 1, 1]),
    ],
)
def test_a_device_map_gives_the_layers_of_each_device(tiny_model, spread, device_map, expected):
    spread(tiny_model, 3).hf_device_map = device_map
    assert [len(layers) for layers in device_layers_of(tiny_model)] == expected


@pytest.mark.parametrize(
    ("last", "message"), [("cpu", "offloaded to cpu"), ("disk", "offloaded to disk"), (0, "not in a row")]
)
def test_a_device_map_that_pages_cannot_follow_is_one_line(tiny_model, spread, last, message):
    spread(tiny_model, 1, 1, 1).hf_device_map["model.layers.2"] = last
    with pytest.raises(KvsimError, match=message) as caught:
        cache_for(tiny_model)
    assert "\n" not in str(caught.value)
