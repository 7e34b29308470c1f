"""`model.generate` on pages says what it says on transformers' own cache, and leaves the model as it found it."""

from __future__ import annotations

import gc
import threading

import pytest

torch = pytest.importorskip("torch")

import kvsim.engine.paged.cache_setup as cache_setup  # noqa: E402
from kvsim.engine.model.forward import CACHE_ARGUMENT  # noqa: E402
from kvsim.engine.model.loading import shape_of  # noqa: E402
from kvsim.engine.paged.decode import decode  # noqa: E402
from kvsim.engine.paged.prefill import prefill  # noqa: E402
from kvsim.errors import CapacityError, KvsimError, PolicyError, ScenarioError  # noqa: E402
from kvsim.experiments.prompt_cache.engine.cache import PromptCache  # noqa: E402
from tests.engine import decoding  # noqa: E402
from tests.engine.decoding import FAST_BYTES_PER_S, FULL, cache_of, default_cache_logits  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPT_TOKENS = 150
NEW_TOKENS = 37


@pytest.fixture(params=["tiny_model", "tiny_gpt2"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def ids():
    return torch.randint(3, 256, (2, PROMPT_TOKENS), generator=torch.Generator().manual_seed(3))


def cache_for(model, *overrides, policy="lru", pages=8, batch=2, **options):
    options.setdefault("max_tokens", PROMPT_TOKENS + NEW_TOKENS)
    return cache_of(model, *overrides, policy=policy, pages=pages, batch=batch, **options)


def generate(model, ids, cache=None, **options):
    return decoding.generate(model, ids, cache, **{"max_new_tokens": NEW_TOKENS} | options)


def link_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("kvsim-to-")]


def assert_untouched(model):
    assert model.config._attn_implementation == "sdpa"
    assert not [name for part in model.modules() for name in vars(part) if "kvsim" in name]
    assert "prepare_inputs_for_generation" not in vars(model)
    assert link_threads() == []


class _ModelOn:
    def __init__(self, device):
        self.device = torch.device(device)


@pytest.mark.parametrize(
    ("mechanism", "expected"), [("staged", "staged"), ("memcpy", "memcpy"), ("emulated", "memcpy")]
)
def test_a_model_on_a_gpu_gets_copy_streams_with_the_mechanism_of_its_profile(monkeypatch, mechanism, expected):
    made = {}
    monkeypatch.setattr(cache_setup, "CudaLink", lambda pool, **options: made.update(pool=pool, **options))
    load = cache_setup.profile_in_file

    def profile_in_file(choice, **places):
        profile = load(choice, **places)
        to_device = profile.link.to_device.model_copy(update={"mechanism": mechanism})
        return profile.model_copy(update={"link": profile.link.model_copy(update={"to_device": to_device})})

    monkeypatch.setattr(cache_setup, "profile_in_file", profile_in_file)
    scenario, beside = cache_setup.concrete_scenario(
        "crosscheck_quick", ["prefetch.window_transfers=3", "budget.context_frac=1.0"]
    )
    cache_setup.link_maker(scenario, _ModelOn("cuda"), None, beside)("the pool")
    assert made == {"pool": "the pool", "window_transfers": 3, "mechanism": expected}


def test_a_stated_bandwidth_and_unknown_devices_are_refused():
    scenario, beside = cache_setup.concrete_scenario("crosscheck_quick", ["budget.context_frac=1.0"])
    with pytest.raises(KvsimError, match="is of the emulated link"):
        cache_setup.link_maker(scenario, _ModelOn("cuda"), 1e9, beside)
    with pytest.raises(KvsimError, match="on 'meta'; a PagedCache moves pages on the CPU and on CUDA only"):
        cache_setup.link_maker(scenario, _ModelOn("meta"), None, beside)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="pages on a GPU need one")
@pytest.mark.parametrize(("policy", "pages"), [("stream", 10), ("lru", 7), ("attention", 7)])
def test_greedy_tokens_on_a_gpu_are_those_of_the_default_cache(model, ids, policy, pages):
    on_gpu, there = model.to("cuda"), ids.to("cuda")
    try:
        expected = generate(on_gpu, there)
        with cache_for(on_gpu, FULL, policy=policy, pages=pages, bandwidth_bytes_per_s=None) as cache:
            assert torch.equal(generate(on_gpu, there, cache), expected)
        assert cache.report().to_device_bytes > 0
    finally:
        model.to("cpu")


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("policy", "pages"), [("resident", 1), ("stream", 10), ("stream", 11), ("lru", 7), ("lru", 12), ("attention", 7)]
)
def test_greedy_tokens_are_those_of_the_default_cache(model, ids, policy, pages, batch):
    expected = generate(model, ids[:batch])
    with cache_for(model, FULL, policy=policy, pages=pages, batch=batch) as cache:
        assert torch.equal(generate(model, ids[:batch], cache), expected)
    report = cache.report()
    assert report.num_steps == NEW_TOKENS - 1
    assert report.hits + report.misses == report.selected > 0
    assert (report.to_device_bytes > 0) == (policy != "resident" and pages < 12)  # or nothing was put to the test
    assert report.score_recall_frac is None
    assert_untouched(model)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("bfloat16", 0.02), ("float16", 0.003)])
def test_logits_are_those_of_the_default_cache_to_the_precision_of_the_dtype(model, ids, dtype, tolerance):
    precise = type(model)(model.config).to(getattr(torch, dtype))
    precise.load_state_dict(model.state_dict())
    precise.eval()
    expected, tokens = default_cache_logits(precise, ids, NEW_TOKENS)
    with cache_for(precise, FULL, pages=7) as cache, torch.inference_mode():
        fed = precise(ids, **{CACHE_ARGUMENT: cache}).logits[:, -1:].argmax(dim=-1)
        found = []
        for step in range(NEW_TOKENS):
            found.append(precise(fed, **{CACHE_ARGUMENT: cache}).logits[:, -1])
            fed = tokens[:, step : step + 1]
    difference = (torch.stack(found, dim=1).float() - expected.float()).abs().mean() / expected.float().std()
    assert difference < tolerance
    assert cache.report().misses > 0


def test_a_selection_is_reported_with_the_share_of_its_scores(model, ids):
    reports = []
    for k_pages in (2, 4, 12):
        with cache_for(model, f"selector.k_pages={k_pages}", policy="attention", pages=12) as cache:
            generate(model, ids, cache)
        reports.append(cache.report())
    fractions = [report.score_recall_frac for report in reports]
    assert 0.2 < fractions[0] < fractions[1] < fractions[2] == pytest.approx(1, abs=1e-3)
    assert reports[0].selected < reports[1].selected < reports[2].selected


def test_counts_are_those_of_kvsims_own_decode_loop(model, ids):
    cache = cache_for(model, "selector.k_pages=2", policy="attention", pages=7)
    given = concrete_input(model, "selector.k_pages=2")
    with cache:
        generated = generate(model, ids, cache)
    snapshot = prefill(model, ids, room_tokens=NEW_TOKENS)
    forced = generated[:, PROMPT_TOKENS:-1]
    object.__setattr__(given, "num_steps", forced.shape[1])
    result = decode(model, snapshot, given, bandwidth_bytes_per_s=FAST_BYTES_PER_S, forced_tokens=forced)
    assert torch.equal(result.tokens, generated[:, PROMPT_TOKENS + 1 :])
    report = cache.report()
    assert report.misses > 0 and report.prefetched > 0
    for name in ("selected", "hits", "misses", "prefetched", "used", "wasted", "evicted", "to_device_bytes"):
        assert getattr(report, name) == result.counts[name].sum(), name


def concrete_input(model, *overrides, policy="attention", pages=7):
    scenario, _ = cache_setup.concrete_scenario(
        "crosscheck_quick", ("page_tokens=16", f"budget.pages_per_layer={pages}", "run.batch=2", *overrides)
    )
    choice = cache_setup.choice_of(scenario, policy)
    return cache_setup.decode_input(scenario, shape_of(model), choice, PROMPT_TOKENS + NEW_TOKENS)


def test_a_prompt_may_come_in_chunks(model, ids):
    expected = generate(model, ids)
    with cache_for(model, FULL) as cache:
        assert torch.equal(generate(model, ids, cache, prefill_chunk_size=64), expected)


def test_other_caches_work_while_one_is_open_and_after(model, ids):
    expected = generate(model, ids)
    padded = torch.ones_like(ids)
    padded[1, :40] = 0
    beside = generate(model, ids, attention_mask=padded)
    assert not torch.equal(beside, expected)  # or the mask was not put to the test
    with cache_for(model, FULL) as first, cache_for(model, FULL, policy="stream", pages=10) as second:
        half = generate(model, ids, first, max_new_tokens=20)
        assert torch.equal(generate(model, ids, attention_mask=padded), beside)
        assert torch.equal(generate(model, ids, second), expected)
        assert torch.equal(generate(model, half, first, max_new_tokens=17), expected)
    assert torch.equal(generate(model, ids), expected)
    assert_untouched(model)


def test_a_cache_that_is_dropped_closes_itself(model, ids):
    cache = cache_for(model, FULL)
    generate(model, ids, cache, max_new_tokens=4)
    assert len(link_threads()) == 2
    assert model.config._attn_implementation != "sdpa"
    del cache
    gc.collect()
    assert_untouched(model)


def test_the_report_of_an_open_cache_grows(tiny_model, ids):
    with cache_for(tiny_model, FULL) as cache:
        assert cache.report().selected == 0
        half = generate(tiny_model, ids, cache, max_new_tokens=10)
        first = cache.report()
        assert first == cache.report()
        generate(tiny_model, half, cache, max_new_tokens=10)
        assert cache.report().num_steps == 19 > first.num_steps == 9
    assert cache.report().misses > first.misses > 0


@pytest.mark.parametrize(("policy", "pages"), [("resident", 1), ("stream", 10), ("lru", 7), ("attention", 9)])
def test_prompts_padded_on_the_left_get_the_tokens_of_the_default_cache(model, ids, policy, pages):
    mask = torch.ones_like(ids)
    mask[1, :43] = 0  # two pages and a part of the third
    expected = generate(model, ids, attention_mask=mask)
    assert not torch.equal(expected, generate(model, ids))  # or the mask was not put to the test
    with cache_for(model, FULL, policy=policy, pages=pages) as cache:
        assert torch.equal(generate(model, ids, cache, attention_mask=mask), expected)
    assert_untouched(model)


def test_a_padded_sequence_that_ends_early_leaves_the_other_as_it_is(model, ids):
    mask = torch.ones_like(ids)
    mask[0, :20] = 0
    plain = generate(model, ids, attention_mask=mask)
    stop = int(plain[1, PROMPT_TOKENS + 5])
    options = {"attention_mask": mask, "eos_token_id": stop, "pad_token_id": 0, "max_new_tokens": NEW_TOKENS}
    expected = model.generate(ids, do_sample=False, **options)
    assert (expected[1] == 0).any()
    with cache_for(model, FULL, pages=7) as cache:
        found = model.generate(ids, **{CACHE_ARGUMENT: cache}, do_sample=False, **options)
    assert torch.equal(found, expected)


def test_prompts_padded_on_the_right_are_refused(model, ids):
    mask = torch.ones_like(ids)
    mask[1, -20:] = 0
    with cache_for(model, FULL) as cache, pytest.raises(KvsimError, match="padded on the left"):
        generate(model, ids, cache, attention_mask=mask)
    assert_untouched(model)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (
            lambda model, ids, cache: generate(model, ids[:1], cache),
            "for a batch of 2, the prompts are 1; make it with batch= as many",
        ),
        (lambda model, ids, cache: generate(model, ids.repeat(1, 2), cache), "room for max_tokens=187"),
        (lambda model, ids, cache: generate(model, ids, cache, max_new_tokens=50), "full: max_tokens=187"),
        (lambda model, ids, cache: generate(model, generate(model, ids, cache).repeat(1, 2), cache), "374 tokens with"),
        (lambda model, ids, cache: (cache.close(), generate(model, ids, cache)), "is closed"),
        (lambda model, ids, cache: cache.crop(-3), "cannot be cropped"),
        (lambda model, ids, cache: cache.batch_repeat_interleave(2), "cannot repeat its prompts"),
        (lambda model, ids, cache: cache.batch_select_indices(torch.tensor([0])), "cannot drop some"),
        (lambda model, ids, cache: cache.offload(0), "offloads pages by its policy"),
        (lambda model, ids, cache: cache.prefetch(0), "prefetches pages by its policy"),
        (lambda model, ids, cache: generate(model, ids, cache, use_cache=False), "needs use_cache=True"),
        (lambda model, ids, cache: generate(model, ids[:1], cache, num_beams=3), "beam search is not supported"),
        (lambda model, ids, cache: generate(model, ids[:1], cache, num_beams=2), "cannot reorder 2 beams"),
        (lambda model, ids, cache: cache.reset(), "one generation"),
        (lambda model, ids, cache: cache.reorder_cache(torch.tensor([1, 0])), "cannot reorder 2 beams"),
    ],
)
def test_what_a_cache_cannot_do_is_one_line(tiny_model, ids, use, message):
    with cache_for(tiny_model, FULL) as cache, pytest.raises(KvsimError, match=message) as caught:
        use(tiny_model, ids, cache)
    assert "\n" not in str(caught.value)
    assert_untouched(tiny_model)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pages": 3, "overrides": (FULL,)}, CapacityError, "set budget.pages_per_layer to at least 7"),
        ({"policy": "fifo"}, ScenarioError, "no policy 'fifo'"),
        ({"policy": None}, ScenarioError, "policy= one of resident, stream, lru, attention"),
        ({"overrides": ("budget.pages_per_layer=[6, 7]",)}, ScenarioError, "sweeps budget.pages_per_layer"),
        ({"overrides": ('selector.channel="mass"',)}, ScenarioError, "selector.channel 'mass'"),
        ({"max_tokens": 600}, KvsimError, "max_tokens: 600 tokens, the model reads 512"),
        ({"max_tokens": 0}, KvsimError, "max_tokens=0: should be at least 1"),
        ({"batch": 0}, KvsimError, "batch must be at least 1"),
        ({"bandwidth_bytes_per_s": 0.0}, KvsimError, "above 0"),
        (
            {"bandwidth_bytes_per_s": None, "overrides": ('profile.path="h200-llama-3-8b-published"',)},
            ScenarioError,
            "states no bandwidth",
        ),
    ],
)
def test_a_scenario_that_does_not_do_is_one_line_and_leaves_the_model_alone(tiny_model, options, error, message):
    overrides = options.pop("overrides", ())
    with pytest.raises(error, match=message) as caught:
        cache_for(tiny_model, *overrides, **options)
    assert "\n" not in str(caught.value)
    assert_untouched(tiny_model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: "models/tiny", "a model of transformers is needed, found a str; load one with"),
        (lambda model: None, "a model of transformers is needed, found a NoneType; load one with"),
        (lambda model: model.base_model, "a model with its LM head is needed, this has none; load one with"),
    ],
)
@pytest.mark.parametrize("make", [cache_for, lambda model: PromptCache(model)])
def test_what_is_no_causal_model_is_one_line(model, change, message, make):
    with pytest.raises(KvsimError, match=message) as caught:
        make(change(model))
    assert "\n" not in str(caught.value)
    assert_untouched(model)


@pytest.mark.parametrize("name", ["WritesScores", "WritesSelected", "WritesMisses", "WritesEvictable"])
def test_a_plug_in_can_write_into_nothing_that_it_is_shown(tiny_model, ids, name):
    plug_in = f"tests.policies.test_plug_ins:{name}"
    problem = rf"policy '{plug_in}': step 0, layer 0: touch raised ValueError: .* read-only"
    with (
        cache_for(tiny_model, f"run.policies=['{plug_in}']", policy=plug_in) as cache,
        pytest.raises(PolicyError, match=problem),
    ):
        generate(tiny_model, ids, cache)
    assert_untouched(tiny_model)
