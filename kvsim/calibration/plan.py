"""What calibration measures, and how long that may take: the grid of contexts, amounts and batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from kvsim.errors import CalibrationError

LEAST_POSITIONS = 512
"""A model with fewer positions has no room for contexts that separate a slope from a constant."""

_LEAST_DECIDED_PAGES = 8
"""Of the contexts in which decisions are timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The grid: every context with every batch and page size, and at each the attended amounts that fit.

    Totals are tokens of the whole batch, 4 short of whole pages for every batch, so that each table has one grid. None
    is a context that a scenario would ask for.
    """

    page_tokens: tuple[int, ...]
    batches: tuple[int, ...]
    attended_tokens: dict[int, tuple[int, ...]]
    """By tokens of context: amounts attended."""
    num_steps: int
    """Steps at each point."""
    decided_pages: tuple[int, ...]
    """Pages selected in the runs that time decisions."""
    decided_contexts_tokens: tuple[int, ...]
    """Contexts of those runs, least first; the first is for policies that read everything alone."""
    num_decided_steps: int
    pieces: tuple[int, ...]
    """Pages of one transfer."""
    link_cap_s: float
    """Time for each point of the link's tables."""
    prefill_tokens: tuple[int, ...]
    cached_tokens: tuple[int, ...]
    num_prefills: int
    """Samples of each point, as below 2 or more: one says nothing of how far it may be off."""
    num_slowed_steps: int
    forward_new_tokens: tuple[int, ...]
    """New tokens of each sequence in one call of the model, for the other caches; with each batch and cached tokens."""
    forward_cached_tokens: tuple[int, ...]
    num_forwards: int
    restored_tokens: tuple[int, ...]
    """Tokens of a prompt's states, put back from a tier and kept there."""
    row_counts: tuple[int, ...]
    """Rows of an embedding table that one call looks up, misses or fetches."""
    row_bytes: tuple[int, ...]
    row_cap_s: float
    """Time for each point of the tables of rows."""
    row_table_bytes: int
    """Of each table, and of the weights that are read between one timed part and the next."""

    @property
    def middle_page_tokens(self) -> int:
        """Page size of the runs that time the host."""
        return self.page_tokens[len(self.page_tokens) // 2]

    @property
    def max_context_tokens(self) -> int:
        """Tokens of the largest context, for the whole batch, with room to grow by a page a sequence."""
        largest = max(*self.attended_tokens, *self.decided_contexts_tokens)
        return largest + max(self.batches) * max(self.page_tokens)

    @property
    def num_positions(self) -> int:
        """Tokens of the longest text that the model is given."""
        return max(
            *self.attended_tokens,
            *self.decided_contexts_tokens,
            max(self.cached_tokens) + max(self.prefill_tokens),
            max(self.forward_cached_tokens) + max(self.forward_new_tokens),
        )

    def within(self, num_positions: int | None) -> Plan:
        """Return the plan with every text as long as a model of so many positions can read; None: as long as it is.

        Amounts shrink in proportion, to whole pages of every batch.

        Raises
        ------
        CalibrationError
            If there is no room for a plan.
        """
        if num_positions is None or self.num_positions <= num_positions:
            return self
        if num_positions < LEAST_POSITIONS:
            raise CalibrationError(f"the model has {num_positions} positions; calibration needs {LEAST_POSITIONS}")
        unit, page = max(self.batches) * max(self.page_tokens), self.middle_page_tokens
        longest = max(self.attended_tokens)

        def shrunk(tokens: int) -> int:
            return max(unit, tokens * num_positions // longest // unit * unit)

        attended = {shrunk(context): amounts for context, amounts in self.attended_tokens.items()}
        contexts = _shrunk(self.decided_contexts_tokens, num_positions, page, least=_LEAST_DECIDED_PAGES * page)
        new_tokens = _shrunk(self.prefill_tokens, num_positions // 2, 1, least=1)
        new_forward = _shrunk(self.forward_new_tokens, num_positions // 2, 1, least=1)
        return replace(
            self,
            attended_tokens={
                context: tuple(sorted({min(context, shrunk(amount)) for amount in amounts}))
                for context, amounts in attended.items()
            },
            decided_contexts_tokens=contexts,
            decided_pages=_shrunk(self.decided_pages, contexts[:2][-1] // page, 1, least=1),
            prefill_tokens=new_tokens,
            cached_tokens=_shrunk(self.cached_tokens, num_positions - max(new_tokens), 1, least=0),
            forward_new_tokens=new_forward,
            forward_cached_tokens=_shrunk(self.forward_cached_tokens, num_positions - max(new_forward), 1, least=0),
        )


def _shrunk(amounts: Iterable[int], most: int, unit: int, *, least: int) -> tuple[int, ...]:
    """Return different amounts in the same proportions, the largest at most `most`, each a multiple of `unit`."""
    sizes = list(amounts)
    largest = max(*sizes, most)
    return tuple(sorted({max(least, amount * most // largest // unit * unit) for amount in sizes}))


FULL = Plan(
    page_tokens=(16, 32, 64),
    batches=(1, 2, 4),
    attended_tokens={768: (256, 768), 3328: (256, 1280, 3328), 12_544: (768, 3328, 12_544)},
    num_steps=6,
    decided_pages=(6, 18, 48, 96),
    decided_contexts_tokens=(704, 1760, 4928, 12_992),
    num_decided_steps=5,
    pieces=(1, 2, 4, 9, 24, 80, 410),
    link_cap_s=0.5,
    prefill_tokens=(24, 144, 512),
    cached_tokens=(0, 1088, 4672),
    num_prefills=2,
    num_slowed_steps=32,
    forward_new_tokens=(1, 24, 144, 448),
    forward_cached_tokens=(0, 144, 416),
    num_forwards=3,
    restored_tokens=(3, 96, 640, 4096),
    row_counts=(1, 2, 9, 40, 250, 1600),
    row_bytes=(1024, 4096, 16_384),
    row_cap_s=0.3,
    row_table_bytes=64 * 2**20,
)
"""Under five minutes for a model of some hundred million parameters."""

QUICK = Plan(
    page_tokens=(32,),
    batches=(1, 2),
    attended_tokens={640: (256, 640), 4928: (1280, 4928)},
    num_steps=4,
    decided_pages=(6, 36),
    decided_contexts_tokens=(704, 1760),
    num_decided_steps=3,
    pieces=(1, 4, 24),
    link_cap_s=0.2,
    prefill_tokens=(24, 256),
    cached_tokens=(0, 1088),
    num_prefills=2,
    num_slowed_steps=12,
    forward_new_tokens=(1, 24, 144),
    forward_cached_tokens=(0, 208),
    num_forwards=2,
    restored_tokens=(3, 320),
    row_counts=(1, 40, 600),
    row_bytes=(1024, 16_384),
    row_cap_s=0.1,
    row_table_bytes=64 * 2**20,
)
"""Under one minute."""

SPOT = replace(QUICK, batches=(1,), attended_tokens={3328: (1280,)}, num_steps=12, pieces=(4, 24), link_cap_s=0.5)
"""Some ten seconds: whether a profile still holds."""
