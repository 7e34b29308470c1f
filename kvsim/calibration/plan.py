"""What calibration measures, and how long that may take: the grid of contexts, amounts and batches."""

from __future__ import annotations

from dataclasses import dataclass, replace


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
