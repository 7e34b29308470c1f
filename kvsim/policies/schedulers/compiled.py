"""The compiled core: `PlainCore` with the scheduler `Vllm` over `kvsim.caches.blocks`, the same steps in less time."""

from __future__ import annotations

import numpy as np

from kvsim.kernels.arrays import ArrayTable
from kvsim.kernels.serving import layout as at
from kvsim.kernels.serving.step import arrive, schedule, update
from kvsim.policies.schedulers.plan import StepBudget, StepWork
from kvsim.policies.schedulers.table import RequestTable
from kvsim.policies.schedulers.vllm import Vllm
from kvsim.types import IntArray


class CompiledStep:
    """A step of `CompiledCore`; its lists are made when they are read, until the step's ``update``."""

    __slots__ = ("_core", "_num_admitted", "_num_preempted", "_number", "work")

    def __init__(self, core: CompiledCore, number: int, num_admitted: int, num_preempted: int, work: StepWork) -> None:
        self._core = core
        self._number = number
        self._num_admitted = num_admitted
        self._num_preempted = num_preempted
        self.work = work

    @property
    def scheduled(self) -> list[tuple[int, int]]:
        """Request and tokens, in the order of the batch."""
        tokens = self._core.section(self._number, at.SCHEDULED_TOKENS, self.work.requests)
        return list(zip(self._core.section(self._number, at.SCHEDULED), tokens, strict=True))

    @property
    def admitted(self) -> list[tuple[int, int]]:
        """Request and hit tokens, in the order of admission."""
        if not self._num_admitted:
            return []
        hit_tokens = self._core.section(self._number, at.HIT_TOKENS, self._num_admitted)
        admitted = self._core.section(self._number, at.ADMITTED, self._num_admitted)
        return list(zip(admitted, hit_tokens, strict=True))

    @property
    def preempted(self) -> list[int]:
        """Preempted requests, in order."""
        if not self._num_preempted:
            return []
        return self._core.section(self._number, at.PREEMPTED, self._num_preempted)

    @property
    def evicted(self) -> list[int]:
        """Keys of the blocks that were evicted, in order; empty unless they are recorded."""
        return self._core.section(self._number, at.EVICTED)

    @property
    def stored(self) -> list[int]:
        """Keys of the blocks that were cached, in order; empty unless they are recorded."""
        return self._core.section(self._number, at.STORED)


class CompiledOutcome:
    """An outcome of `CompiledCore`; its lists are made when they are read, until the next ``schedule`` but one."""

    __slots__ = ("_core", "_number", "num_finished", "num_sampled")

    def __init__(self, core: CompiledCore, number: int, num_sampled: int, num_finished: int) -> None:
        self._core = core
        self._number = number
        self.num_sampled = num_sampled
        self.num_finished = num_finished

    @property
    def sampled(self) -> list[int]:
        """Requests that got a token, in the order of the batch."""
        return self._core.section(self._number, at.SAMPLED, self.num_sampled)

    @property
    def sampled_array(self) -> IntArray:
        """The same as an array, which later steps overwrite."""
        return self._core.section_array(self._number, at.SAMPLED, self.num_sampled)

    @property
    def finished(self) -> list[int]:
        """Those for which it was the last one."""
        return self._core.finished(self._number, self.num_finished) if self.num_finished else []


class CompiledCore:
    """A core whose scheduler is `Vllm`, in compiled code.

    Parameters
    ----------
    scheduler, budget
        As in `PlainCore`.
    requests
        All requests that may come.
    num_blocks, block_tokens
        The pool, the null block included, and the tokens of a block.
    keys, key_starts
        Keys of the full blocks of all requests, one request after another, as dense integers, and where those of each
        request begin, ``[num_requests + 1]``; None switches prefix caching off.
    is_async
        Whether steps are scheduled one ahead.
    records_keys
        Whether a step lists the keys that were evicted and stored.
    """

    def __init__(
        self,
        scheduler: Vllm,
        budget: StepBudget,
        requests: RequestTable,
        *,
        num_blocks: int,
        block_tokens: int,
        keys: IntArray | None = None,
        key_starts: IntArray | None = None,
        is_async: bool = False,
        records_keys: bool = False,
    ) -> None:
        self._has_arrived = bytearray(len(requests))
        starts = np.zeros(len(requests) + 1, dtype=np.int64) if key_starts is None else key_starts
        flat = np.zeros(0, dtype=np.int64) if keys is None else keys
        self._check(requests, budget, None if keys is None else np.diff(starts), block_tokens)
        width = max(budget.sequences, 4 * num_blocks if records_keys else 0)
        self._numbers = _numbers(scheduler, budget, num_blocks, block_tokens)
        self._numbers[[at.IS_ASYNC, at.CACHING, at.RECORDING]] = is_async, keys is not None, records_keys
        self._steps = np.empty((3 * at.NUM_SECTIONS, width), dtype=np.int64)
        self._counts = np.zeros((3, at.NUM_COUNTS), dtype=np.int64)
        arrays = {
            at.NUMBERS: self._numbers,
            at.REQUESTS: _request_rows(requests, starts),
            at.BLOCKS: _block_rows(num_blocks),
            at.FIRST: np.full(int(flat.max(initial=-1)) + 1, at.NONE, dtype=np.int64),
            at.KEYS: np.ascontiguousarray(flat, dtype=np.int64),
            at.TABLES: np.empty((budget.sequences, -(-budget.model_tokens // block_tokens)), dtype=np.int64),
            at.LISTS: _lists(len(requests), budget.sequences),
            at.COUNTS: self._counts,
            at.STEPS: self._steps,
        }
        self._arrays = ArrayTable(at.NUM_ARRAYS, arrays)
        self.address = self._arrays.address
        """Of its arrays, for compiled code."""

    def _check(self, requests: RequestTable, budget: StepBudget, num_keys: IntArray | None, block_tokens: int) -> None:
        """Refuse what compiled code would take for memory of its own: it checks no index."""
        if (requests.stop_tokens > budget.model_tokens).any() or (requests.prompt_tokens < 1).any():
            raise ValueError("a request is empty or longer than the model's longest sequence")
        if num_keys is not None and (num_keys < (requests.stop_tokens - 1) // block_tokens).any():
            raise ValueError("a request has fewer keys than full blocks")

    @property
    def num_unfinished(self) -> int:
        """Requests that were added and are not finished."""
        return self.num_running + self.num_waiting

    @property
    def num_running(self) -> int:
        """Requests that hold blocks."""
        return int(self._numbers[at.NUM_RUNNING])

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return int(self._numbers[at.NUM_WAITING])

    @property
    def num_free_blocks(self) -> int:
        """Blocks that nobody holds, cached ones included."""
        return int(self._numbers[at.NUM_FREE])

    @property
    def num_transfers(self) -> int:
        """None: it knows no tiers below the device."""
        return 0

    def add(self, request: int) -> None:
        """Let a request arrive."""
        if not 0 <= request < len(self._has_arrived):
            raise IndexError(f"there is no request {request} among {len(self._has_arrived)}")
        if self._has_arrived[request]:
            raise ValueError(f"request {request} has arrived already")
        self._has_arrived[request] = True
        arrive(self.address, request)

    def schedule(self) -> CompiledStep:
        """Decide the next step."""
        number, num_admitted, num_preempted, *work = schedule(self.address)
        return CompiledStep(self, number, num_admitted, num_preempted, StepWork._make(work))

    def update(self) -> CompiledOutcome:
        """Take in what the forward pass sampled of the oldest step that was scheduled and not updated yet."""
        return CompiledOutcome(self, *update(self.address))

    def finished(self, number: int, num_finished: int) -> list[int]:
        """Return the requests for which the token of a step was the last one."""
        return self.section(number, at.FINISHED, num_finished)

    def section(self, number: int, section: int, length: int | None = None) -> list[int]:
        """Return one section of a step, for `CompiledStep` and `CompiledOutcome`."""
        length = int(self._counts[number, section]) if length is None else length
        assert length <= self._steps.shape[1], "more keys in one step than there is room for"
        values: list[int] = self.section_array(number, section, length).tolist()
        return values

    def section_array(self, number: int, section: int, length: int) -> IntArray:
        """Return one section of a step as an array, which the step after the next one overwrites."""
        return self._steps[number * at.NUM_SECTIONS + section, :length]


def _numbers(scheduler: Vllm, budget: StepBudget, num_blocks: int, block_tokens: int) -> IntArray:
    numbers = np.zeros(at.NUM_NUMBERS, dtype=np.int64)
    numbers[[at.MAX_TOKENS, at.MAX_SEQUENCES, at.MODEL_TOKENS]] = budget.tokens, budget.sequences, budget.model_tokens
    numbers[at.BLOCK_TOKENS], numbers[at.NUM_FREE] = block_tokens, num_blocks - 1
    numbers[[at.PREFILL_TOKENS, at.ADAPTIVE]] = scheduler.long_prefill_tokens, scheduler.long_prefill_adaptive
    numbers[[at.CHUNKED, at.RESERVE]] = scheduler.chunked_prefill, scheduler.reserve_full_prompt
    numbers[at.WATERMARK_BLOCKS] = int(scheduler.watermark_frac * num_blocks)
    numbers[at.BY_PRIORITY] = scheduler.order == "priority"
    numbers[[at.BLOCKED_REQUEST, at.BLOCKED_KEY]] = at.NONE
    return numbers


def _request_rows(requests: RequestTable, key_starts: IntArray) -> IntArray:
    rows = np.zeros((len(requests), at.NUM_REQUEST), dtype=np.int64)
    rows[:, at.PROMPT] = rows[:, at.TOKENS] = requests.prompt_tokens
    rows[:, at.LIMIT] = requests.prompt_tokens + requests.max_tokens
    rows[:, at.STOP], rows[:, at.PRIORITY] = requests.stop_tokens, requests.priority
    rows[:, at.ARRIVAL], rows[:, at.RANK] = requests.arrival, requests.rank
    rows[:, at.FIRST_KEY], rows[:, at.SLOT] = key_starts[:-1], at.NONE
    return rows


def _block_rows(num_blocks: int) -> IntArray:
    """Return the pool at its start: blocks 1 to ``num_blocks - 1`` are free, in this order."""
    rows = np.full((num_blocks + 1, at.NUM_BLOCK), at.NONE, dtype=np.int64)
    ring = np.array([num_blocks, *range(1, num_blocks), num_blocks])
    rows[ring[:-1], at.AFTER], rows[ring[1:], at.BEFORE] = ring[1:], ring[:-1]
    rows[:, at.HOLDERS] = 0
    return rows


def _lists(num_requests: int, sequences: int) -> IntArray:
    lists = np.zeros((3, max(num_requests, sequences)), dtype=np.int64)
    lists[at.SLOTS, :sequences] = np.arange(sequences)
    return lists
