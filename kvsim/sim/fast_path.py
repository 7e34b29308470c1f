"""The fast path: steps of a decode run in compiled code, one SimPy event a step, where nothing else happens within it.

A batch that has the machine to itself meets nobody between the beginning and the end of a step. Then its step need not
be simulated event by event: `kvsim.kernels.step.step` goes through the same moments, sum by sum, and the SimPy process
passes the step's time at once. A policy that is no kernel is asked layer by layer, in between. What this path cannot do
it does not try (`can_run`): `kvsim.sim.simulation` then takes the event path, which tests hold this one to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from kvsim.kernels.step import layout
from kvsim.kernels.step.step import go_on
from kvsim.policies.base import View
from kvsim.profile.profile import SEGMENTS, SPECULATE, Profile
from kvsim.profile.tables import At, CostTable
from kvsim.sim.clock import Process
from kvsim.sim.inputs import SimulationInput
from kvsim.sim.ledger import BYTES, COLUMNS, COUNTS, HOST_TIMES, TIMES
from kvsim.sim.replay import Block
from kvsim.sim.rules import make_rules
from kvsim.sim.run_arrays import RunArrays
from kvsim.types import FloatArray, IntArray, PageIds, Scores

_FIRST_ROOM = 1024
"""Transfers that the rings hold at first; they grow where a run has more under way."""


def can_run(profile: Profile) -> bool:
    """Return whether this path does all that a profile asks for.

    It does not where copies slow down a compute stream that runs beside the host: then the end of one work depends on
    copies that the host has not submitted when the work begins.
    """
    return profile.synchronous or profile.link.compute_slowdown_frac == 0.0


class FastPath:
    """A decode run as one process, whose steps are worked out in compiled code."""

    def __init__(
        self, env: simpy.Environment, run_input: SimulationInput, progress: Callable[[int], None], chunk_steps: int
    ) -> None:
        self._env = env
        self._run_input = run_input
        self._progress = progress
        self.chunk = env.event()
        """Fires when a chunk of rows can be taken."""
        self._taken = env.event()
        self._residency = run_input.make_residency()
        # a policy may change its mind when it starts, and later
        self._may_predict, shows_speculation = run_input.predicts, run_input.shows_speculation
        resident = run_input.start(self._residency)
        table = self._residency.page_table
        grid = run_input.setting.grid
        num_ids = grid.num_pages
        self._counts = _counts(run_input)
        clock, tables = _costs(run_input, self._counts, may_predict=self._may_predict)
        self._times: FloatArray = np.zeros((chunk_steps + 1, layout.NUM_ROW_TIMES))
        self._rows: IntArray = np.zeros((chunk_steps + 1, layout.NUM_ROW_COUNTS), dtype=np.int64)
        self._contexts: IntArray = np.zeros(chunk_steps, dtype=np.int64)
        self._mass: FloatArray = np.zeros(chunk_steps)
        self._flags = np.zeros((4, num_ids), dtype=np.bool_)
        self._flags[:3] = table.flags
        self._first_step = 0  # of the rows
        self._rules = make_rules(run_input.policy, run_input.setting, resident)
        num_works = 1 << (2 * (5 * grid.num_layers + 2)).bit_length()
        self._arrays = arrays = RunArrays()
        for name, array in {
            layout.COUNTS: self._counts,
            layout.CLOCK: clock,
            layout.RING: np.zeros((layout.NUM_RING_ROWS, _FIRST_ROOM), dtype=np.int64),
            layout.TRANSFERS: np.zeros((_FIRST_ROOM, 4), dtype=np.int64),
            layout.DONE: np.zeros((_FIRST_ROOM, 2)),
            layout.WORKS: np.zeros((num_works, layout.NUM_WORK_FIELDS)),
            layout.TABLES: tables,
            layout.CARRIED_S: np.full((2, num_ids + 1), np.nan),
            layout.TIMES: self._times,
            layout.ROWS: self._rows,
            layout.FLAGS: self._flags,
            layout.PAGES: np.full((num_ids, 4), -1, dtype=np.int64),
            layout.PLAN: np.zeros((3, num_ids), dtype=np.int64),
            layout.PAGES_NOW: np.zeros(grid.num_sequences, dtype=np.int64),
            layout.NUM_PAGES: table.num_pages,
            layout.FREE: table.free,
            layout.OPENED: np.zeros(grid.num_sequences, dtype=np.int64),
            layout.WAS_EVICTABLE: np.zeros(num_ids, dtype=np.bool_),
            layout.RULES: self._rules.rules,
            layout.LINKS: self._rules.links,
            layout.READ_BITS: self._rules.read_bits,
            layout.LOST_BITS: self._rules.lost_bits,
        }.items():
            arrays[name] = array
        self._misses, self._victims, self._prefetches = arrays[layout.PLAN]
        self._shown = _Shown(run_input, self._flags, self._misses, shows_speculation=shows_speculation)
        self._block: Block = run_input.replay.block(0, everything=run_input.reads_all)

    def run(self) -> Process[None]:
        """Decode every step, passing the time of each at once."""
        env, num_steps, chunk_steps = self._env, self._run_input.replay.num_steps, self._contexts.size
        step = 0
        while step < num_steps:
            block = self._block
            if step == block.first_step + block.num_steps:
                block = self._block = self._run_input.replay.block(step, everything=self._run_input.reads_all)
            end = min(block.first_step + block.num_steps, self._first_step + chunk_steps)
            self._decode(block, end)
            rows = slice(step - self._first_step, end - self._first_step)
            places = slice(step - block.first_step, end - block.first_step)
            self._contexts[rows] = block.context[places].max(axis=1)
            self._mass[rows] = block.mass_recall_frac[places]
            for time_s in self._times[rows, layout.ROW_STEP].tolist():
                yield env.timeout(time_s)
                self._progress(1)
            step = end
            if step == num_steps:
                self._rows[rows.stop - 1, layout.WASTED] += int(np.count_nonzero(self._flags[layout.UNREAD]))
            if step == self._first_step + chunk_steps and step < num_steps:
                self.chunk.succeed()
                yield self._taken

    def take(self) -> dict[str, NDArray[np.generic]]:
        """Return the rows since the last taking, as columns, and begin anew."""
        size = int(self._counts[layout.ROW])
        steps = np.arange(self._first_step, self._first_step + size, dtype=np.int64)
        columns: dict[str, NDArray[Any]] = {
            "step": steps,
            "context_tokens": self._contexts[:size].copy(),
            "is_warmup": steps < self._run_input.warmup_steps,
            "step_s": self._times[:size, layout.ROW_STEP].copy(),
            "mass_recall_frac": self._mass[:size].copy(),
            "digest": self._rows[:size, layout.ROW_DIGEST].copy(),
        }
        columns |= {name: self._times[:size, place].copy() for place, name in enumerate((*TIMES, *HOST_TIMES))}
        columns |= {name: self._rows[:size, place].copy() for place, name in enumerate((*COUNTS, *BYTES))}
        self._times[:size] = 0.0
        self._rows[:size] = 0
        # what the host spent after the last step's row was closed stands in that row; nothing is open yet
        self._counts[layout.ROW] = 0
        self._first_step += size
        self.chunk, taken, self._taken = self._env.event(), self._taken, self._env.event()
        taken.succeed()
        return {name: columns[name] for name in COLUMNS}

    def _decode(self, block: Block, end_step: int) -> None:
        """Let the kernel run up to `end_step`, asking the policy where it is no kernel."""
        arrays, address = self._arrays, self._arrays.address
        self._counts[layout.BLOCK_START] = block.first_step
        arrays[layout.READINGS], arrays[layout.OFFSETS], arrays[layout.CONTEXT] = (
            block.selected,
            block.offsets,
            block.context,
        )
        num_victims = num_prefetches = 0
        while True:
            outcome, first, second, third = go_on(address, num_victims, num_prefetches, end_step)
            if outcome == layout.WANTS_PLAN:
                num_victims, num_prefetches = self._ask(block, first, second, third)
            elif outcome == layout.STEPS_DONE:
                return
            elif outcome == layout.WANTS_ROOM:
                self._grow()
            else:
                self._fail(outcome, first, second, third)

    def _ask(self, block: Block, num_misses: int, free_slots: int, num_opened: int) -> tuple[int, int]:
        """Let the policy decide one layer; write its plan where the kernel reads it and return the plan's sizes."""
        policy = self._run_input.policy
        step, layer = int(self._counts[layout.STEP]), int(self._counts[layout.LAYER])
        for page in self._arrays[layout.OPENED][:num_opened].tolist():
            policy.page_opened(page)
        plan = policy.decide(self._shown.view(block, step, layer, num_misses, free_slots))
        if self._may_predict:
            self._counts[layout.SPECULATES] = self._run_input.predicts
        victims, prefetches = plan.victims, plan.prefetches
        if len(victims):
            self._victims[: len(victims)] = victims
        if len(prefetches):
            self._prefetches[: len(prefetches)] = prefetches
        return len(victims), len(prefetches)

    def _fail(self, outcome: int, num_victims: int, num_prefetches: int, num_misses: int) -> None:
        """Raise what the event path would raise: the reference page table says what is wrong with a plan."""
        if outcome == layout.STUCK:
            raise RuntimeError("simulation stuck: a copy waits for what never happens")
        step, layer = int(self._counts[layout.STEP]), int(self._counts[layout.LAYER])
        self._residency.page_table.flags[:] = self._flags[:3]
        if outcome == layout.BAD_PLAN:
            victims, prefetches = self._victims[:num_victims], self._prefetches[:num_prefetches]
            self._residency.check(plan_victims=victims, prefetches=prefetches, step=step, layer=layer)
        self._residency.check_slots(
            step, layer, num_victims=num_victims, num_misses=num_misses, num_prefetches=num_prefetches
        )
        raise RuntimeError("the compiled page table refuses a plan that the plain one accepts")

    def _grow(self) -> None:
        """Double the rings: what is numbered n moves to its slot in the larger ones."""
        arrays, counts = self._arrays, self._counts
        old = arrays[layout.RING].shape[1]
        ring: IntArray = np.zeros((layout.NUM_RING_ROWS, 2 * old), dtype=np.int64)
        for queue in range(layout.DEMAND, layout.ISSUED + 1):
            head, size = int(counts[layout.HEAD + queue]), int(counts[layout.SIZE + queue])
            ring[queue, :size] = arrays[layout.RING][queue, (head + np.arange(size)) % old]
            counts[layout.HEAD + queue] = 0
        last = int(counts[layout.NEXT_AFTER])
        numbers = np.arange(max(0, last - old), last)
        ring[layout.AFTER, numbers % (2 * old)] = arrays[layout.RING][layout.AFTER, numbers % old]
        arrays[layout.RING] = ring
        last = int(counts[layout.NEXT_TRANSFER])
        numbers = np.arange(max(0, last - old), last)
        for name in (layout.TRANSFERS, layout.DONE):
            larger = np.zeros((2 * old, arrays[name].shape[1]), dtype=arrays[name].dtype)
            larger[numbers % (2 * old)] = arrays[name][numbers % old]
            arrays[name] = larger


class _Shown:
    """What a policy sees of a run: the page table, read only, and one view a decision."""

    def __init__(
        self, run_input: SimulationInput, flags: NDArray[np.bool_], misses: PageIds, *, shows_speculation: bool
    ) -> None:
        shown = flags.view()
        shown.flags.writeable = False
        self._resident, self._evictable, self._prefetchable = shown[: layout.UNREAD]
        self._misses = misses.view()
        self._misses.flags.writeable = False
        self._run_input = run_input if shows_speculation else None
        self._num_layers = run_input.setting.grid.num_layers
        self._quota = run_input.setting.prefetch_quota_pages
        self._block: Block | None = None

    def view(self, block: Block, step: int, layer: int, num_misses: int, free_slots: int) -> View:
        """Return the view of one step and layer."""
        if block is not self._block:
            self._block, self._offsets = block, block.offsets.tolist()
            self._selected = block.selected.view()
            self._selected.flags.writeable = False
        place = (step - block.first_step) * self._num_layers + layer
        return View(
            step=step,
            layer=layer,
            selected=self._selected[self._offsets[place] : self._offsets[place + 1]],
            misses=self._misses[:num_misses],
            scores=block.scores[place],
            resident=self._resident,
            evictable=self._evictable,
            prefetchable=self._prefetchable,
            speculation=self._predicted(step, layer),
            free_slots=free_slots,
            prefetch_quota=self._quota,
        )

    def _predicted(self, step: int, layer: int) -> Scores | None:
        """Return the next layer's scores as predicted, if the policy asks for them now."""
        run_input = self._run_input
        return (
            run_input.replay.speculation(step, layer) if run_input is not None and run_input.shows_speculation else None
        )


def _counts(run_input: SimulationInput) -> IntArray:
    """Return the whole numbers of a run that has not begun."""
    counts: IntArray = np.zeros(layout.NUM_COUNTS, dtype=np.int64)
    grid, profile = run_input.setting.grid, run_input.profile
    for place, value in {
        layout.NUM_LAYERS: grid.num_layers,
        layout.NUM_SEQUENCES: grid.num_sequences,
        layout.PAGES_PER_LAYER: grid.pages_per_layer,
        layout.PAGE_TOKENS: run_input.replay.page_tokens,
        layout.PINNED_FIRST: run_input.pinned_first_pages,
        layout.PINNED_LAST: run_input.pinned_last_pages,
        layout.QUOTA: run_input.setting.prefetch_quota_pages,
        layout.CHUNK: run_input.chunk_pages,
        layout.WINDOW: run_input.window_transfers,
        layout.IS_SYNCHRONOUS: profile.synchronous,
        layout.KEEPS_ORDER: profile.link.issue == "stream",
        layout.READS_ALL: run_input.reads_all,
        layout.WAITS_FOR_SCORES: run_input.policy.reads_selection,
        layout.SPECULATES: run_input.predicts,
        layout.HOLDS_ALL: run_input.policy.holds == "everything",
        layout.ATTENDS_ALL: run_input.policy.attends == "everything",
        layout.PAGE_BYTES: run_input.page_bytes,
        layout.MOST_PER_STEP: grid.num_layers * (2 + grid.num_sequences + run_input.setting.prefetch_quota_pages),
        layout.LAST_ATTENTION: -1,
        layout.RUNNING: -1,
        layout.RUNNING + 1: -1,
    }.items():
        counts[place] = value
    return counts


def _costs(run_input: SimulationInput, counts: IntArray, *, may_predict: bool) -> tuple[FloatArray, FloatArray]:
    """Return the clock at 0 and the cost tables at the run's batch, whose places it enters in `counts`."""
    profile, link = run_input.profile, run_input.profile.link
    batch = float(run_input.setting.grid.num_sequences)
    clock: FloatArray = np.zeros(layout.NUM_CLOCK)
    clock[layout.COMPUTE_SLOWDOWN] = link.compute_slowdown_frac
    clock[layout.SYNC_S] = profile.sync_s
    clock[layout.SUBMIT_S] = link.to_device.submit_s
    clock[layout.SUBMIT_BACK_S] = link.to_host.submit_s
    for direction in range(2):
        base = direction * layout.ENGINE_SIZE
        clock[base + layout.LOOK_S] = np.inf
        clock[base + layout.SINCE_S] = np.nan
        clock[base + layout.SLOWDOWN] = link.both_ways_slowdown_frac
    sequences, piece = At(sequences=batch), At(piece_bytes=run_input.page_bytes)
    tables: dict[int, tuple[CostTable | None, At]] = {}
    for place, name in enumerate((*SEGMENTS, SPECULATE)):
        if name == SPECULATE and not may_predict:
            continue
        cost = profile.segment(name)
        tables[place] = cost.device, sequences
        tables[layout.HOST_TABLE + place] = cost.host, sequences
        clock[layout.MEMO + 4 * place + 3] = cost.tail_s if cost.host else 0.0
    if run_input.policy.holds == "budget":
        decision = profile.policies[profile.decision_cost(run_input.policy_name)]
        tables[layout.DECIDE] = decision, At(grid_pages=run_input.setting.grid.num_pages)
    tables[layout.TO_DEVICE_TABLE] = link.to_device.transfer, piece
    tables[layout.TO_DEVICE_TABLE + 1] = link.to_host.transfer, piece
    clock[layout.MEMO :: 4] = np.nan
    packed: list[float] = [0.0]  # the table of no cost
    for place, (table, at) in tables.items():
        counts[layout.TABLE + place] = len(packed) if table is not None else 0
        packed += [] if table is None else _packed(table, at)
    return clock, np.array(packed)


def _packed(table: CostTable, at: At) -> list[float]:
    """Return a table at one of its columns as `kvsim.kernels.step.costs` reads it."""
    column, frac = table.column_at(**at)
    left = [row[column] for row in table.time_s]
    right = [row[column + 1] for row in table.time_s] if frac else left
    return [float(len(table.amounts)), frac, *table.amounts, *left, *right]
