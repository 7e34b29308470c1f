"""The public prompt cache: keys and values of whole prompts, kept on tiers, and generation that starts from them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, StoppingCriteria

from kvsim.caches.prompts.accounting import Keeping, PromptCacheState, Reuse, TierBudget
from kvsim.engine.links.states import KVStates, StateLink, keep, make_link, move, restore
from kvsim.engine.model.families import check_whole_context, shape_of
from kvsim.engine.model.forward import CACHE_ARGUMENT, cache_of
from kvsim.errors import KvsimError
from kvsim.types import IntArray

_COUNTED = ("requests", "hits", "host_hits", "prompt_tokens", "reused_tokens", "evicted", "demoted")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCacheReport:
    """What a prompt cache did so far, counted where bytes were handed over."""

    requests: int
    hits: int
    """Requests that reused a token or more."""
    host_hits: int
    """Those of them whose tokens came over the link."""
    prompt_tokens: int
    reused_tokens: int
    kept_prompts: int
    """Prompts that are kept now."""
    device_bytes: int
    host_bytes: int
    transfers: int
    """Times that the link was used, both directions."""
    evicted: int
    """Prompts that were given up, those apart that a longer one took the place of."""
    demoted: int
    """Prompts that went from the device to the host."""

    @property
    def reused_frac(self) -> float:
        """Share of the prompts' tokens that needed no prefill; NaN before the first request."""
        return self.reused_tokens / self.prompt_tokens if self.prompt_tokens else float("nan")


class PromptCache:
    """Keys and values of prompts, kept for the next prompt that begins alike.

    Parameters
    ----------
    model
        Whose keys and values they are; those of another model would be nonsense.
    tiers
        Where prompts are kept and how many bytes of them, the nearest tier first; see `PromptCacheState` for
        what leaves when. On the device without a limit where absent.
    least_tokens
        Compute fewer shared tokens than this rather than bring them back.
    bandwidth_bytes_per_s
        Of the emulated link to the host tier, on a machine without a GPU.

    Raises
    ------
    KvsimError
        If the model has layers that do not attend to the whole context, a tier or its policy cannot be, or there is a
        host tier on the CPU and no bandwidth.
    """

    def __init__(
        self,
        model: Any,
        tiers: Sequence[TierBudget] = (TierBudget(tier="device"),),
        *,
        least_tokens: int = 1,
        bandwidth_bytes_per_s: float | None = None,
    ) -> None:
        shape = shape_of(model)
        check_whole_context(model.config, type(model).__name__)
        self._model = model
        token_bytes = shape.num_layers * shape.page_bytes(1)
        self._make_state = partial(PromptCacheState, token_bytes, tuple(tiers), least_tokens=least_tokens)
        self._state = self._make_state()
        has_host = any(tier.tier == "host" for tier in tiers)
        if has_host and model.device.type == "cpu" and not bandwidth_bytes_per_s:
            raise KvsimError("a host tier on the CPU is behind an emulated link: say its bandwidth_bytes_per_s")
        self._link: StateLink = make_link(model.device, bandwidth_bytes_per_s or math.inf)
        self._states: dict[int, KVStates] = {}
        self._counts = dict.fromkeys(_COUNTED, 0)

    @property
    def model(self) -> Any:
        """The model whose prompts are kept."""
        return self._model

    def restore(self, tokens: IntArray) -> tuple[Reuse, DynamicCache]:
        """Return what a prompt reuses, and a cache that holds so many of its first tokens: none for nothing."""
        reuse = self._state.find(tokens)
        parts = [] if reuse.entry is None else [self._states[reuse.entry].tokens(0, reuse.tokens)]
        held = restore(parts, self._link)
        self._counts["requests"] += 1
        self._counts["hits"] += bool(parts)
        self._counts["host_hits"] += any(part.tier == "host" for part in parts)
        self._counts["prompt_tokens"] += tokens.size
        self._counts["reused_tokens"] += held.get_seq_length()
        return reuse, held

    def keep(self, tokens: IntArray, reuse: Reuse, cache: DynamicCache) -> Keeping:
        """Keep a prompt of which `found` was just restored, out of a cache that begins with all of it.

        What fails on the way, as where memory runs out, leaves no prompt kept rather than a wrong cache state.
        """
        done = self._state.keep(tokens, reuse)
        try:
            self._carry_out(done, tokens.size, cache)
        except BaseException:
            self._states.clear()
            self._state = self._make_state()
            raise
        return done

    def _carry_out(self, done: Keeping, num_tokens: int, cache: DynamicCache) -> None:
        for gone in done.moves:
            states = self._states.pop(gone.entry)
            self._counts["evicted"] += gone.to is None and not gone.is_replaced
            if gone.to is not None:
                self._counts["demoted"] += 1
                self._states[gone.entry] = move(states, gone.to, self._link)
        if done.entry is not None and done.tier is not None:
            self._states[done.entry] = keep(cache, 0, num_tokens, tier=done.tier, link=self._link)

    def report(self) -> PromptCacheReport:
        """Return what it did so far."""
        held = list(self._states.values())
        return PromptCacheReport(
            **self._counts,
            kept_prompts=len(held),
            device_bytes=sum(states.nbytes for states in held if states.tier == "device"),
            host_bytes=sum(states.nbytes for states in held if states.tier == "host"),
            transfers=self._link.num_transfers,
        )

    def close(self) -> None:
        """Let go of all prompts and end the link."""
        self._states.clear()
        self._link.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> PromptCache:
        """Refuse: a cache of prompts is shared by generations, and its prompts are another's for the asking."""
        raise KvsimError("a PromptCache is not copied: use it for every generation, or make another PromptCache(model)")

    def __enter__(self) -> PromptCache:
        """Return the cache itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptGeneration:
    """What `generate_with_prompt_cache` returns."""

    sequences: torch.Tensor
    """Prompt and answer, ``[1, tokens]``, as `generate` returns them."""
    prompt_tokens: int
    reused: Reuse
    """What came from the cache."""
    kept: Keeping
    """What keeping this prompt did."""
    first_token_s: float
    """From the call to the first new token, look-up and transfer included."""
    keep_s: float
    """What keeping the prompt took, after the last token."""
    logits: tuple[torch.Tensor, ...] | None
    """Of each new token, where ``output_logits=True`` was asked for."""

    @property
    def new_ids(self) -> torch.Tensor:
        """The answer alone, ``[1, new tokens]``."""
        return self.sequences[:, self.prompt_tokens :]


def generate_with_prompt_cache(
    model: Any, input_ids: torch.Tensor, *, cache: PromptCache, max_new_tokens: int, **options: Any
) -> PromptGeneration:
    """Generate after a prompt with transformers' own loop, its beginning out of `cache`; then keep the prompt there.

    Parameters
    ----------
    input_ids
        One prompt, ``[1, tokens]``.
    options
        Handed on to ``model.generate``: sampling, stopping, ``output_logits``.

    Raises
    ------
    KvsimError
        If `cache` is another model's, there is not one prompt but several, several answers or beams are asked for, or
        an option is not the caller's to give.
    """
    if cache.model is not model:
        raise KvsimError("the cache was made for another model; make one for this: PromptCache(model, ...)")
    if input_ids.ndim != 2 or input_ids.shape[0] != 1 or not input_ids.shape[1]:
        raise KvsimError(f"input_ids should be one prompt, [1, tokens]; found {list(input_ids.shape)}")
    taken = [name for name in ("past_key_values", "cache", "use_cache", "return_dict_in_generate") if name in options]
    if taken:
        raise KvsimError(f"{taken[0]} is what generate_with_prompt_cache gives itself; leave it out")
    several = [name for name in ("num_beams", "num_return_sequences") if options.get(name, 1) != 1]
    if several:
        raise KvsimError(f"{several[0]}={options[several[0]]}: a prompt cache goes with one answer at a time")
    tokens = input_ids[0].cpu().numpy().astype(np.int64)
    first = _FirstToken()
    reuse, held = cache.restore(tokens)
    own = {"attention_mask": torch.ones_like(input_ids)}
    done = model.generate(
        input_ids,
        max_new_tokens=max_new_tokens,
        return_dict_in_generate=True,
        stopping_criteria=[first, *options.pop("stopping_criteria", [])],
        **{CACHE_ARGUMENT: held},
        **own | options,
    )
    ended_s = time.perf_counter()
    keeping = cache.keep(tokens, reuse, cache_of(done))
    return PromptGeneration(
        sequences=done.sequences,
        prompt_tokens=tokens.size,
        reused=reuse,
        kept=keeping,
        first_token_s=first.passed_s,
        keep_s=time.perf_counter() - ended_s,
        logits=done.logits,
    )


class _FirstToken(StoppingCriteria):
    """Stops nothing; takes the time when it is first asked, which is after the first new token."""

    def __init__(self) -> None:
        self._started_s = time.perf_counter()
        self.passed_s = float("nan")

    def __call__(self, input_ids: torch.Tensor, scores: Any, **options: Any) -> torch.Tensor:
        del scores, options
        if np.isnan(self.passed_s):
            input_ids[0, -1].item()  # a device has caught up
            self.passed_s = time.perf_counter() - self._started_s
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
