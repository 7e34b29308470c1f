"""Keys and values that leave the device for tiers below it and come back, as the scheduler sees it: no clock, no link.

After vLLM 0.32.0's offloading connector (``distributed/kv_transfer/kv_connector/v1/offloading/scheduler.py``) for one
group of full attention. Its rules for the host tier are kept step by step: prompts only are stored, in whole chunks, as
soon as they are scheduled; a request whose chunks are still being written, or read for another request, is passed over;
a load holds its blocks while it lasts. A second tier, storing at eviction and recomputing what is cheaper to compute
than to load are ours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from kvsim.caches.blocks import BlockTables
from kvsim.caches.tiers.chunks import Access, ChunkCache, Presence

Kind: TypeAlias = Literal["store", "load", "demote", "promote"]
"""To the host, from it; from the host to the disk, and back."""


class Request(Protocol):
    """What the tiers look at of a request; `kvsim.policies.schedulers.Request` is one."""

    @property
    def index(self) -> int:
        """Which request this is; the block tables know it by this number."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of its prompt."""

    @property
    def num_tokens(self) -> int:
        """Tokens known: the prompt and what was sampled and delivered so far."""

    @property
    def computed_tokens(self) -> int:
        """Tokens whose keys and values exist."""


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """Chunks on their way between two tiers."""

    kind: Kind
    chunks: tuple[int, ...]
    num_blocks: int
    request: int | None = None
    """Whose blocks they are copied from or to."""
    blocks: tuple[int, ...] = ()
    """Blocks of the device that a store reads."""


@dataclass(slots=True)
class _Progress:
    """What the tiers know of one request."""

    access: Access = field(default_factory=Access)
    next_chunk: int = 0
    """The first chunk of its prompt that was not offered yet."""
    transfers: set[Transfer] = field(default_factory=set)
    is_loaded: bool = False
    refused_end: int = 0
    """Where the chunks end that found no room and are offered again in each step, and once after the request's end."""
    refused_blocks: list[int] = field(default_factory=list)
    """The blocks that held them."""


class Offload:
    """The tiers of one engine.

    A core calls `scheduled` and `finished`. Whoever drives it takes new transfers after each ``schedule``, and calls
    `arrived` for those that have ended before ``update``.

    Parameters
    ----------
    blocks
        The engine's block tables.
    chains
        Keys of each request's blocks.
    chunk_blocks
        Blocks of a chunk.
    host, disk
        The tiers.
    writes
        ``through``: whatever is computed is stored at once, and goes on to the disk as soon as the host has it.
        ``back``: what a tier evicts is stored in the one below.
    is_worth_loading
        Says of hits on the device and tokens behind them whether to load those or compute them; all are loaded where
        absent.
    """

    def __init__(
        self,
        blocks: BlockTables,
        chains: Sequence[Sequence[int]],
        *,
        chunk_blocks: int,
        host: ChunkCache,
        disk: ChunkCache | None = None,
        writes: Literal["through", "back"] = "through",
        is_worth_loading: Callable[[int, int], bool] | None = None,
    ) -> None:
        self.host, self.disk, self.writes = host, disk, writes
        self.loaded_tokens: dict[int, int] = {}
        """Tokens that each request took from below the device when it was first admitted."""
        self._blocks = blocks
        self._chunk_blocks = chunk_blocks
        self._chunk_tokens = chunk_blocks * blocks.block_tokens
        self._chunks = [tuple(keys[chunk_blocks - 1 :: chunk_blocks]) for keys in chains]
        self._ends_chunk = {key for chunks in self._chunks for key in chunks}
        self._is_worth_loading = is_worth_loading
        self._progress: dict[int, _Progress] = {}
        self._loading: set[int] = set()
        self._new: list[Transfer] = []
        self._flushed: set[Transfer] = set()
        self._finished: deque[int] = deque()
        self._num_under_way = 0
        self._handed_out: list[int] = []
        blocks.pool.handed_out = self._handed_out
        self._readers: dict[int, set[Transfer]] = {}
        """Stores that still read a block of a request that has ended."""

    @property
    def num_under_way(self) -> int:
        """Transfers that have not ended."""
        return self._num_under_way

    def loadable_tokens(self, request: Request, hit_tokens: int) -> int | None:
        """Return how many tokens behind its hits a request should load; None: ask again in the next step."""
        progress = self._of(request.index)
        if progress.transfers:
            return None
        size = self._chunk_tokens
        end_tokens = request.num_tokens // size * size
        if end_tokens - hit_tokens < size:
            return 0
        chunks = self._chunks[request.index][hit_tokens // size : end_tokens // size]
        run, is_coming = self._run(chunks)
        if is_coming:
            return None
        tokens = (hit_tokens // size + run) * size - hit_tokens
        if run == 0 or tokens < size:
            return 0
        if self._is_worth_loading is not None and not self._is_worth_loading(hit_tokens, tokens):
            return 0
        return None if any(chunk in self._loading for chunk in chunks[:run]) else tokens

    def begin_load(self, request: Request, hit_tokens: int, tokens: int) -> None:
        """Start to load; the request has its blocks."""
        progress, size = self._of(request.index), self._chunk_tokens
        first, end = hit_tokens // size, (hit_tokens + tokens) // size
        chunks = self._chunks[request.index][first:end]
        self.host.read(chunks, first, progress.access)
        self._loading.update(chunks)
        progress.next_chunk, progress.is_loaded = end, False
        self.loaded_tokens.setdefault(request.index, tokens)
        num_blocks = -(-tokens // self._blocks.block_tokens)
        self._start(Transfer("load", chunks, num_blocks, request=request.index), progress)
        self._handed_out += self._blocks.held(request.index)

    def is_loaded(self, request: Request) -> bool:
        """Return whether a request that loads has all."""
        return self._of(request.index).is_loaded

    def scheduled(
        self,
        batch: Iterable[tuple[Request, int]],
        *,
        admitted: Iterable[tuple[Request, int]],
        preempted: Iterable[Request],
        evicted: Iterable[int],
    ) -> None:
        """Take in a step that was just scheduled, before what it computes counts as computed.

        Parameters
        ----------
        batch
            Its requests, with the tokens to compute of each.
        evicted
            Keys of blocks that it evicted from the device.
        """
        for request in preempted:
            self._flushed |= self._of(request.index).transfers
        for request, _ in admitted:
            self._handed_out += self._blocks.held(request.index)
        self._watch()
        if self.writes == "through":
            for request, tokens in batch:
                if request.computed_tokens < request.prompt_tokens or self._of(request.index).refused_end:
                    end_tokens = min(request.computed_tokens + tokens, request.prompt_tokens)
                    self._offer(request.index, end_tokens // self._chunk_tokens, self._blocks.held(request.index))
        else:
            self._store_evicted(evicted)
        self._end_requests()
        self._handed_out.clear()

    def take_new(self) -> tuple[list[Transfer], set[Transfer]]:
        """Return the transfers that begin, and those that must end before the step runs: it writes what they read."""
        new, flushed = self._new, self._flushed
        self._new, self._flushed = [], set()
        return new, flushed

    def finished(self, request: int) -> None:
        """Note that a request has ended; its blocks may be handed out again."""
        for transfer in self._of(request).transfers:
            self._guard(transfer)
        self._finished.append(request)

    def arrived(self, transfer: Transfer) -> None:
        """Note that a transfer has ended."""
        self._num_under_way -= 1
        if transfer.kind in ("store", "promote"):
            self.host.written(transfer.chunks)
        elif transfer.kind == "demote":
            assert self.disk is not None
            self.disk.written(transfer.chunks)
        else:
            self.host.was_read(transfer.chunks)
            self._loading.difference_update(transfer.chunks)
        for block in transfer.blocks:
            readers = self._readers.get(block)
            if readers is not None:
                readers.discard(transfer)
                if not readers:
                    del self._readers[block]
        if transfer.request is not None:
            progress = self._of(transfer.request)
            progress.transfers.discard(transfer)
            progress.is_loaded = progress.is_loaded or transfer.kind == "load"
        if transfer.kind == "store" and self.writes == "through":
            self._demote(transfer.chunks)

    def _of(self, request: int) -> _Progress:
        return self._progress.setdefault(request, _Progress())

    def _run(self, chunks: Sequence[int]) -> tuple[int, bool]:
        """Return how many chunks from the first on are there or coming, and whether one of them is coming."""
        is_coming = False
        for place, chunk in enumerate(chunks):
            presence = self.host.presence(chunk)
            if presence is Presence.ABSENT and self._promote(chunk):
                presence = Presence.COMING
            if presence is Presence.ABSENT:
                return place, is_coming
            is_coming |= presence is Presence.COMING
        return len(chunks), is_coming

    def _promote(self, chunk: int) -> bool:
        """Begin to bring a chunk from the disk to the host; return whether the disk has it and the host has room."""
        if self.disk is None or self.disk.presence(chunk) is not Presence.PRESENT:
            return False
        if not self.host.offer([chunk], 0, Access()):
            return False
        self._start(Transfer("promote", (chunk,), self._chunk_blocks))
        self._demote_evicted()
        return True

    def _offer(self, request: int, end: int, held: list[int]) -> Transfer | None:
        """Store the chunks of a prompt that were not offered yet, up to the one before `end`.

        Parameters
        ----------
        held
            The request's blocks.
        """
        progress = self._of(request)
        first, progress.refused_end = progress.next_chunk, 0
        if end <= first:
            return None
        absent = self.host.offer(self._chunks[request][first:end], first, progress.access)
        if absent is None:
            progress.refused_end, progress.refused_blocks = end, held
            return None
        progress.next_chunk = end
        self._demote_evicted()
        if not absent:
            return None
        size = self._chunk_blocks
        places = {chunk: first + place for place, chunk in enumerate(self._chunks[request][first:end])}
        blocks = [held[places[chunk] * size + part] for chunk in absent for part in range(size)]
        store = Transfer("store", tuple(absent), len(blocks), request=request, blocks=tuple(blocks))
        self._start(store, progress)
        return store

    def _store_evicted(self, evicted: Iterable[int]) -> None:
        """Store what the device evicted before its blocks are written to: the step waits for that."""
        chunks = [key for key in evicted if key in self._ends_chunk]
        absent = self.host.offer(chunks, 0, Access()) if chunks else None
        if absent:
            store = Transfer("store", tuple(absent), len(absent) * self._chunk_blocks)
            self._start(store)
            self._flushed.add(store)
        self._demote_evicted()

    def _demote_evicted(self) -> None:
        """Let what the host evicted go to the disk, if chunks are written there only then."""
        evicted, self.host.evicted = self.host.evicted, []
        if self.writes == "back":
            self._demote(evicted)

    def _demote(self, chunks: Sequence[int]) -> None:
        if self.disk is None or not chunks:
            return
        absent = self.disk.offer(chunks, 0, Access())
        self.disk.evicted = []
        if absent:
            self._start(Transfer("demote", tuple(absent), len(absent) * self._chunk_blocks))

    def _guard(self, transfer: Transfer) -> None:
        """Note that a store reads blocks that nobody holds any more."""
        for block in transfer.blocks:
            self._readers.setdefault(block, set()).add(transfer)

    def _watch(self) -> None:
        """Let stores end first that still read blocks which were handed out again."""
        if self._readers:
            for block in self._handed_out:
                self._flushed |= self._readers.get(block, set())

    def _end_requests(self) -> None:
        """Offer once more what was refused of requests that have ended, and let the tier know of their end."""
        ended = list(self._finished)
        self._finished.clear()
        for request in ended:
            progress = self._of(request)
            store = self._offer(request, progress.refused_end, progress.refused_blocks)
            if store is not None:
                self._guard(store)
                self._watch()
        for request in ended:
            self.host.finished(self._of(request).access)

    def _start(self, transfer: Transfer, progress: _Progress | None = None) -> None:
        self._new.append(transfer)
        self._num_under_way += 1
        if progress is not None:
            progress.transfers.add(transfer)
