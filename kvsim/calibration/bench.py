"""Runs the engine's own decode steps on random contexts that never grow, stamped, and separates disturbed steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from kvsim.calibration.plan import Plan
from kvsim.calibration.random_inputs import Schedule, random_ids, random_snapshot
from kvsim.engine.links.base import Link
from kvsim.engine.links.page_pool import PagePool
from kvsim.engine.model.layers import paged_layers
from kvsim.engine.paged.decode import Decoder, StepOutcome, running
from kvsim.engine.paged.decode_input import DecodeInput
from kvsim.engine.paged.fresh_run import fresh_run
from kvsim.engine.paged.stamps import LAYER_PARTS, Stamps
from kvsim.policies import Setting, make_policy
from kvsim.scenario.shapes import ModelShape
from kvsim.types import BoolArray, FloatArray, PageGrid, pages_of

Advance = Callable[[int], None]
"""Called with the number of steps done since the last call."""

SHORT_TOKENS = 4
"""Contexts of a batch end so many tokens short of whole pages: no page opens or fills while they are measured."""

WARMUP_STEPS = 2
"""First steps of a run, which never count."""

MAX_ROUNDS = 3
"""A disturbed step is repeated in the next round; what the last one leaves is taken as it is."""


@dataclass(slots=True)
class Bench:
    """A model, random memory for its contexts, and what the runs have in common."""

    model: Any
    shape: ModelShape
    tokens: torch.Tensor
    bandwidth_bytes_per_s: float
    """Of the link: stated, or what is expected of it."""
    plan: Plan
    advance: Advance
    make_link: Callable[[PagePool], Link]
    make_stamps: Callable[[], Stamps] = Stamps
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @property
    def num_layers(self) -> int:
        """Layers with pages of the model that is timed: all of the shape's, or a few that stand for all."""
        return len(paged_layers(self.model.config))

    @contextmanager
    def decoder(
        self,
        policy: str,
        *,
        page_tokens: int,
        num_sequences: int,
        context_tokens: int,
        max_steps: int,
        capacity_pages: int | None = None,
        quota_pages: int = 4,
        is_filling: bool = False,
        predicts: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> Iterator[tuple[Decoder, Schedule, Stamps, PagePool]]:
        """Yield a stamped decoder whose context never grows: each step writes its token where the last one did.

        Parameters
        ----------
        context_tokens
            Of the whole batch.
        is_filling
            The token written is a page's last one, so that every step writes each open page back.
        predicts
            Every layer but the last scores the next one's pages too.
        arguments
            Of the policy.
        """
        each = context_tokens // num_sequences - (0 if is_filling else SHORT_TOKENS // num_sequences)
        pages = pages_of(each, page_tokens) + 1  # room to grow, as a run has
        grid = PageGrid(num_sequences=num_sequences, num_layers=self.num_layers, pages_per_layer=pages)
        setting = Setting(
            grid=grid,
            capacity_pages=capacity_pages or grid.num_pages,
            partition="shared",
            prefetch_quota_pages=quota_pages,
            seed=0,
        )
        schedule = Schedule()
        run_input = DecodeInput(
            selector=schedule,
            channel="estimate:quest",
            policy=make_policy(policy, setting, arguments or {}),
            setting=setting,
            page_tokens=page_tokens,
            pinned_first_pages=0,
            pinned_last_pages=0,
            num_steps=max_steps,
            warmup_steps=0,
            chunk_pages=4,
            window_transfers=2,
            records_speculation=predicts,
        )
        snapshot = random_snapshot(
            self.tokens, num_layers=self.num_layers, num_sequences=num_sequences, prompt_tokens=each - 1
        )
        stamps = self.make_stamps()
        run = fresh_run(self.model, run_input, snapshot, self.make_link, stamps)
        with running(self.model, run, snapshot, stamps) as decoder:
            yield decoder, schedule, stamps, run.pool

    def step(self, decoder: Decoder) -> StepOutcome:
        """Feed random tokens for one step; the context stays as long as it was."""
        batch = decoder.run.run_input.setting.grid.num_sequences
        return decoder.step(random_ids(self.rng, batch, self.shape.vocab_size))

    def quiet_steps(
        self, decoder: Decoder, schedule: Schedule, stamps: Stamps, page_counts: list[int], *, idle_frac: float
    ) -> tuple[list[int], BoolArray]:
        """Run a step for each of `page_counts` pages a sequence, in random order, and again those that were disturbed.

        A step is disturbed if for more than `idle_frac` of it the computing thread neither computed nor waited for
        pages: another program had the processor. A GPU's host waits for it besides, so that there all steps are quiet.
        Returns the pages of each step run, and which steps count: the quiet ones, or all of an amount that had hardly
        any. The first two steps never count.
        """
        order = page_counts[:1] * WARMUP_STEPS + self.rng.permutation(page_counts).tolist()
        ran: list[int] = []
        outcomes: list[StepOutcome] = []
        quiet = np.zeros(0, dtype=np.bool_)
        for _ in range(MAX_ROUNDS):
            for pages in order:
                schedule.attend(pages)
                outcomes.append(self.step(decoder))
                self.advance(len(ran) < len(page_counts) + WARMUP_STEPS)
                ran.append(pages)
            step_s = np.array([outcome.step_s for outcome in outcomes])
            idle_s = step_s - np.array([outcome.cpu_s for outcome in outcomes])
            idle_s -= stamps.parts_s(self.num_layers)["stall"].sum(axis=1)
            quiet = (idle_s <= idle_frac * step_s) | (self.model.device.type != "cpu")
            quiet[:WARMUP_STEPS] = False
            had = np.array(ran)
            order = [
                pages
                for pages in sorted(set(page_counts))
                for _ in range(page_counts.count(pages) - np.count_nonzero(quiet[had == pages]))
            ]
            if not order:
                break
        for pages in set(page_counts):
            of_count = np.array(ran) == pages
            if np.count_nonzero(quiet & of_count) < 2:
                quiet[of_count] = True
                quiet[:WARMUP_STEPS] = False
        return ran, quiet


def step_parts(stamps: Stamps, num_layers: int) -> dict[str, FloatArray]:
    """Return each part by step, ``[num_steps]``: the mean over layers where it is a layer's."""
    parts = stamps.parts_s(num_layers)
    return {name: part.mean(axis=1) if name in LAYER_PARTS else part for name, part in parts.items()}
