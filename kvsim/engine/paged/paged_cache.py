"""The public cache: a scenario's policy, budget, selector and link behind ``model.generate(past_key_values=...)``."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import torch
from transformers.cache_utils import Cache

from kvsim.engine.model.families import shape_of
from kvsim.engine.paged.cache_setup import (
    check_budgets,
    choice_of,
    concrete_scenario,
    decode_input,
    layers_by_device,
    link_maker,
    max_tokens_of,
)
from kvsim.engine.paged.continuation import Continuation
from kvsim.engine.paged.scoring import Seen
from kvsim.engine.paged.session import Session
from kvsim.engine.paged.summaries import check_channel
from kvsim.engine.paged.unpaged import cache_layers, copied_unpaged
from kvsim.errors import KvsimError
from kvsim.policies import make_policy
from kvsim.scenario.decode import Scenario
from kvsim.types import IntArray, PageGrid, PageIds


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheReport:
    """What a cache did in its decode steps, summed over steps and layers; counts are pages."""

    policy: str
    prompt_tokens: int
    """Tokens computed densely: the prompts of all turns."""
    num_steps: int
    """Tokens decoded through pages: one less than the new tokens of a `generate`."""
    selected: int
    """Pages that attention read."""
    hits: int
    misses: int
    late: int
    """Hits whose bytes were still on their way."""
    prefetched: int
    used: int
    """Prefetched pages that attention read before they left."""
    wasted: int
    """Prefetched pages that left unread, or have not been read yet."""
    evicted: int
    to_device_bytes: int
    to_host_bytes: int
    score_recall_frac: float | None
    """Share of the selector's own scores on the pages that were read, mean over steps, layers and sequences. It is an
    estimate of the attention mass that was read: of pages left out only summaries are seen. `kvsim measure` reports the
    true share. None where no page is scored: all of them are read."""

    @property
    def hit_frac(self) -> float:
        """Share of the pages read that were on the device; NaN before the first step."""
        return self.hits / self.selected if self.selected else float("nan")


class PagedCache(Cache):
    """A cache for ``past_key_values`` that holds a budget of pages on the device and the others on the host.

    Make one with `from_scenario`, for one prompt (or a batch, the shorter ones padded on the left) and what is
    generated after it, turn by turn where a conversation goes on. A turn's prompt is computed densely, each token after
    it with attention over pages. With selector ``full`` the output is that of transformers' default cache. While a
    cache is open the model has another attention function, which leaves other caches alone; `close`, the end of a
    ``with`` block, or the end of the cache puts the model's own back.
    """

    def __init__(self, session: Session, policy: str, *, scores: _ScoreShare | None = None) -> None:
        super().__init__(layers=cache_layers(session.model, session))
        self._policy = policy
        self.session = session
        """What keeps the tokens and answers the model's attention."""
        self._scores = scores
        self._report: CacheReport | None = None
        if session.run_input.scores_pages and scores is None:
            session.observer = self._scores = _ScoreShare(session.run_input.setting.grid)
        self._finalizer = weakref.finalize(self, session.close)

    @classmethod
    def from_scenario(
        cls,
        scenario: Scenario | Path | str,
        model: Any,
        *,
        batch: int | None = None,
        max_tokens: int | None = None,
        policy: str | None = None,
        overrides: Sequence[str] = (),
        end_token_ids: Sequence[int] = (),
        bandwidth_bytes_per_s: float | None = None,
    ) -> PagedCache:
        """Return a fresh cache for `model` with the policy, budget, selector and link of a scenario.

        The scenario's model shape and trace play no part: sizes are those of `model`. Where its layers lie on several
        devices (``hf_device_map``), each has the scenario's budget, a link and a policy of its own. ``run.devices``
        splits a model that lies on one device as if there were several.

        Parameters
        ----------
        scenario
            A scenario, its file, or the name of one that ships.
        model
            A transformers model with its LM head, of a family that the engine reads, on the CPU or a CUDA device.
        batch
            Prompts generated together; ``run.batch`` where absent.
        max_tokens
            Most tokens of a prompt and what follows it; ``measure.prompt_tokens + measure.num_steps`` where absent.
        policy
            Which of ``run.policies``, by the name that tables show; needed where there are several.
        overrides
            ``KEY=VALUE`` as with ``--set``; for a scenario given by file or name.
        end_token_ids
            The `eos_token_id` of `generate`, one or several: once a sequence has decoded one, it reads no more pages
            in that turn. Without them a sequence that has ended goes on reading until the last one has.
        bandwidth_bytes_per_s
            Of the emulated link between host and device; the profile's stated bandwidth where absent. A CUDA device has
            a link of its own, and copies by the mechanism that its profile found faster.

        Raises
        ------
        KvsimError
            If the scenario leaves open what to run, its selector scores by what a running model cannot see, its budget
            is below the policy's minimum, or kvsim does not read such models.
        """
        concrete, beside = concrete_scenario(scenario, overrides)
        if batch is not None:
            if batch < 1:
                raise KvsimError(f"batch must be at least 1, got {batch}")
            concrete = concrete.model_copy(update={"run": concrete.run.model_copy(update={"batch": batch})})
        shape = shape_of(model)
        limit = max_tokens_of(concrete, model, max_tokens)
        choice = choice_of(concrete, policy)
        layers = layers_by_device(concrete, model, shape)
        check_budgets(concrete, shape, choice, limit, layers)
        run_input = decode_input(concrete, shape, choice, limit, layers)
        if run_input.scores_pages:
            check_channel(run_input.channel)
        make_link = link_maker(concrete, model, bandwidth_bytes_per_s, beside)
        session = Session(
            model,
            run_input,
            max_tokens=limit,
            make_link=make_link,
            make_policy=lambda setting: make_policy(choice.name, setting, choice.arguments),
            continuation=Continuation(concrete.run.batch, end_token_ids),
        )
        return cls(session, choice.shown)

    def __deepcopy__(self, memo: dict[int, Any]) -> PagedCache:
        """Return a second cache for the same model, with pools, policy and link of its own and the same pages.

        As with transformers' own caches, one that holds a prefix may be copied for each of several generations.

        Raises
        ------
        KvsimError
            If the cache is closed, or a decode step was cut short.
        """
        session: Session = copy.deepcopy(self.session, memo)
        copied = type(self)(session, self._policy, scores=cast("_ScoreShare | None", session.observer))
        for place, layer in copied_unpaged(self.layers).items():
            copied.layers[place] = layer
        return copied

    def report(self) -> CacheReport:
        """Return what the cache did in the steps that have ended; after `close`, up to then.

        Any thread may ask, also while another decodes.

        Raises
        ------
        KvsimError
            If a decode step of the calling thread was cut short by an error.
        """
        if self._report is not None:
            return self._report
        session = self.session
        finished = session.counts()
        return CacheReport(
            policy=self._policy,
            prompt_tokens=session.prompt_tokens,
            num_steps=finished.num_steps,
            score_recall_frac=None if self._scores is None else self._scores.mean_frac(finished.num_steps),
            **{name: finished.counts[name] for name in _COUNTS},
        )

    def close(self) -> None:
        """Put the model's own attention back and end the link; the report stays. A second call does nothing."""
        if not self.session.is_closed:
            try:
                self._report = self.report()
            except KvsimError:  # a step was cut short: that error is on its way already
                pass
            finally:
                self._finalizer()

    def __enter__(self) -> PagedCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get_mask_sizes(self, query_length: int, *arguments: Any, **options: Any) -> tuple[int, int]:
        """Return the length of a layer's mask and its offset; asked for before a pass, which must have room."""
        self.session.check_pass(query_length)
        sizes: tuple[int, int] = super().get_mask_sizes(query_length, *arguments, **options)
        return sizes

    def crop(self, *arguments: Any, **options: Any) -> None:
        """Refuse: pages that left the device cannot be cut."""
        del arguments, options
        raise KvsimError("a PagedCache cannot be cropped; copy.deepcopy it before the tokens that may be taken back")

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Refuse beam search."""
        raise KvsimError(f"a PagedCache cannot reorder {len(beam_idx)} beams; use greedy search or sampling")

    def batch_repeat_interleave(self, *arguments: Any, **options: Any) -> None:
        """Refuse: the pages of a batch are laid out when the cache is made."""
        del arguments, options
        raise KvsimError("a PagedCache cannot repeat its prompts; make one with batch= as many")

    def batch_select_indices(self, *arguments: Any, **options: Any) -> None:
        """Refuse: the pages of a batch are laid out when the cache is made."""
        del arguments, options
        raise KvsimError("a PagedCache cannot drop some of its prompts; make one for each")

    def offload(self, *arguments: Any, **options: Any) -> None:
        """Refuse: what is on the device is the policy's to decide."""
        del arguments, options
        raise KvsimError("a PagedCache offloads pages by its policy, not layer by layer")

    def prefetch(self, *arguments: Any, **options: Any) -> None:
        """Refuse: what is on the device is the policy's to decide."""
        del arguments, options
        raise KvsimError("a PagedCache prefetches pages by its policy, not layer by layer")


_COUNTS = tuple(
    name
    for name in CacheReport.__dataclass_fields__
    if name not in ("policy", "prompt_tokens", "num_steps", "score_recall_frac")
)


class _ScoreShare:
    """An observer that adds up which share of the selector's scores lies on the pages that were read."""

    def __init__(self, grid: PageGrid) -> None:
        self._grid = grid
        self._sum_frac = 0.0
        self._count = 0
        self._at_end: list[tuple[float, int]] = [(0.0, 0)]  # sum and count at the end of each step, none's first

    def mean_frac(self, num_steps: int) -> float:
        """Return the mean share of the first `num_steps` steps; NaN where there is none."""
        sum_frac, count = self._at_end[num_steps]
        return sum_frac / count if count else float("nan")

    def layer(
        self, layer: int, seen: Seen, selected: PageIds, query: torch.Tensor, slots: IntArray, unfilled_tokens: IntArray
    ) -> None:
        """Take one layer in."""
        del query, slots, unfilled_tokens
        for sequence, row in enumerate(seen.scores.astype("float64")):
            first = self._grid.first_page(sequence=sequence, layer=layer)
            indices = selected[(selected >= first) & (selected < first + self._grid.pages_per_layer)] - first
            if row.any():  # a speculation says nothing of the first layer
                self._sum_frac += float(row[indices].sum() / row.sum())
                self._count += 1

    def end_step(self, sequence_tokens: IntArray) -> None:
        """Note what the step came to: other threads may ask in the middle of the next."""
        del sequence_tokens
        self._at_end.append((self._sum_frac, self._count))
