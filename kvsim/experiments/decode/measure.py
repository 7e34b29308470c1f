"""A decode scenario run on the real model: a measured result, with the traces that a simulation replays."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvsim.engine.links.page_pool import EngineError
from kvsim.engine.paged.decode import DecodeResult
from kvsim.engine.paged.decode_input import DecodeInput
from kvsim.engine.paged.timeline import spans_of
from kvsim.errors import ScenarioError
from kvsim.experiments.base import model_path_of
from kvsim.experiments.decode.cells import Cell, measure_of, only, prompts_of, steps_of
from kvsim.experiments.decode.engine.bench import Bench, BenchInput, Recording
from kvsim.experiments.decode.engine.inputs import decode_input, resolve_measured
from kvsim.experiments.decode.entry import MeasuredEntry, MeasuredFigures
from kvsim.experiments.decode.fresh_profile import fresh_profile
from kvsim.experiments.decode.max_context import max_contexts
from kvsim.experiments.decode.provenance import own_inputs
from kvsim.experiments.decode.recorded import hand_over, mass_recall_frac, replay_of, trace_name
from kvsim.experiments.decode.report.summary import COUNTED
from kvsim.experiments.decode.simulate import Rows, simulate_timeline
from kvsim.experiments.decode.summarise import entry_of, summarise
from kvsim.experiments.provenance import manifest_of
from kvsim.experiments.types import Files, Job, Measurement
from kvsim.policies.base import reads_speculation
from kvsim.report.results import RunResult, joined
from kvsim.report.timeline import TimedRun
from kvsim.scenario.checks import check_shape
from kvsim.scenario.decode import Scenario
from kvsim.scenario.shipped import near
from kvsim.sim.ledger import HOST_TIMES, TIMES


def measure(scenario: Scenario, job: Job) -> tuple[RunResult, Files]:
    """Run every cell of `scenario` on the real model; return the result, and the traces recorded on the way by name.

    Cells of one context are measured in turn, repeat by repeat, so that a machine that drifts drifts for all alike.

    Raises
    ------
    KvsimError
        If the scenario does not say what to measure, its model or text cannot be had, or a budget is too small.
    """
    cells = resolve_measured(scenario, job)
    groups: dict[tuple[BenchInput, str], list[int]] = {}
    for number, cell in enumerate(cells):
        groups.setdefault((_bench_input(cell, job.base_dir), trace_name(cell.scenario)), []).append(number)
    repeats = measure_of(scenario).repeats
    total = len(cells) * (repeats + 1) + len(groups)
    bench: Bench | None = None
    tables: dict[int, Rows] = {}
    extras: dict[int, MeasuredFigures] = {}
    traces: Files = {}
    for (made_of, name), numbers in sorted(groups.items(), key=lambda group: repr(group[0])):
        if bench is None or bench.made_of != made_of:
            bench = None  # one model at a time
            bench = _bench(cells[numbers[0]], made_of)
        recording = _record(bench, [cells[number] for number in numbers])
        traces[name] = recording.trace
        job.progress(1 / total)
        runs: dict[int, list[DecodeResult]] = {number: [] for number in numbers}
        for repeat in range(repeats + 1):
            for number in numbers:
                runs[number].append(_run(bench, cells[number], recording, is_stamped=repeat == repeats))
                job.progress(1 / total)
        for number in numbers:
            tables[number] = _table(number, cells[number], runs[number], recording)
            extras[number] = _extras(cells[number], tables[number], recording)
    entries: list[MeasuredEntry] = [
        {**entry_of(cell, by_step(tables[number])), **extras[number]} for number, cell in enumerate(cells)
    ]
    manifest = manifest_of(scenario, job, seed=scenario.run.seed, is_measured=True, more=own_inputs(cells, None))
    result = RunResult(
        summary=summarise(scenario, cells, entries) | {"is_measured": True},
        rows=joined([tables[number] for number in range(len(cells))]),
        manifest=manifest | {"is_measured": True, "traces": sorted(traces)},
    )
    return result, traces


def measure_timeline(scenario: Scenario, number: int, job: Job) -> tuple[TimedRun, TimedRun]:
    """Run cell `number` once, stamped, and simulate the accesses recorded on the way; return simulated and measured.

    Raises
    ------
    KvsimError
        If there is no such cell, it cannot be measured, or the host's stamps do not show what the device does.
    """
    cell = only(resolve_measured(scenario, job), number, scenario.name)
    cell.check_one_device("a timeline")
    if not cell.profile.synchronous:
        raise ScenarioError(
            f"{scenario.name}: profile {cell.profile.name!r} is of a machine whose host runs ahead of its device; the "
            "engine stamps the host's clock, so a timeline is measured on a CPU only, and simulated for any machine"
        )
    bench = _bench(cell, _bench_input(cell, job.base_dir))
    recording = _record(bench, [cell])
    job.progress(0.4)
    run_input = decode_input(cell)
    _hand_over(run_input, cell, recording)
    run = bench.run(run_input, prompts_of(cell.scenario), is_stamped=True)
    job.progress(0.4)
    rows = run.counts | {"step": np.arange(run_input.num_steps)}
    measured = TimedRun(name="measured", spans=spans_of(run, run_input.setting.grid), rows=rows)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / trace_name(cell.scenario)).write_bytes(recording.trace)
        again = dataclasses.replace(job, recorded=Path(folder), progress=lambda share: job.progress(0.2 * share))
        simulated = simulate_timeline(scenario, number, again)
    return simulated, measured


def by_step(rows: Rows) -> Rows:
    """Return one row a step: times of a step are medians over repeats, its parts those of the instrumented run."""
    stamped = rows["is_stamped"]
    plain_s = rows["step_s"][~stamped].reshape(-1, int(stamped.sum()))
    merged = {name: column[stamped] for name, column in rows.items()}
    stretch = np.median(plain_s, axis=0) / merged["step_s"]
    return merged | {
        "step_s": np.median(plain_s, axis=0),
        "stall_s": merged["stall_s"] * np.minimum(stretch, 1.0),
    }


def _bench_input(cell: Cell, base_dir: Path | None) -> BenchInput:
    scenario, profile = cell.scenario, cell.profile
    measure = measure_of(scenario)
    model_path = model_path_of(scenario, base_dir)
    bandwidth = profile.link.stated_bandwidth_bytes_per_s
    if profile.device == "cpu" and bandwidth is None:
        raise ScenarioError(f"{scenario.name}: profile {profile.name!r} states no bandwidth for the emulated link")
    return BenchInput(
        model_path=model_path,
        dtype=cell.shape.dtype,
        text=near(measure.text, base_dir),
        device=profile.device,
        num_threads=profile.machine.num_threads,
        bandwidth_bytes_per_s=bandwidth,
        prefill_chunk_tokens=scenario.run.prefill_chunk_tokens,
        mechanism=profile.link.to_device.mechanism,
        quantisation=scenario.model.quantisation,
    )


def _bench(cell: Cell, made_of: BenchInput) -> Bench:
    bench = Bench(made_of)
    check_shape(bench.shape, cell.shape, where=f"{cell.scenario.name}: the model in {cell.scenario.model.path}")
    return bench


def _record(bench: Bench, cells: Sequence[Cell]) -> Recording:
    """Record what cells of one context read, with everything resident on one device: no link plays a part."""
    first = cells[0]
    resident = first.with_policy("resident")
    speculates = any(reads_speculation(decode_input(cell).policy) for cell in cells if not cell.is_peer)
    chosen = dataclasses.replace(decode_input(resident), records_speculation=speculates, devices=())
    return bench.record(chosen, decode_input(resident, reads_all=True), prompts_of(first.scenario))


def _run(bench: Bench, cell: Cell, recording: Recording, *, is_stamped: bool) -> DecodeResult:
    prompts = prompts_of(cell.scenario)
    if cell.is_peer:
        return bench.run_offloaded(
            prompts,
            measure_of(cell.scenario).num_steps,
            page_tokens=cell.scenario.page_tokens,
            counts_copies=is_stamped,
        )
    run_input = decode_input(cell)
    _hand_over(run_input, cell, recording)
    return bench.run(run_input, prompts, is_stamped=is_stamped)


def _hand_over(run_input: DecodeInput, cell: Cell, recording: Recording) -> None:
    """Hand the oracles among a run's policies what it will read."""
    for share in run_input.devices:
        hand_over(share.policy, cell, recording.trace, run_input.num_steps, share.layers)
    if not run_input.devices:
        hand_over(run_input.policy, cell, recording.trace, run_input.num_steps)


def _table(number: int, cell: Cell, runs: Sequence[DecodeResult], recording: Recording) -> Rows:
    """Return the rows of one cell: those of each repeat, then those of the instrumented run."""
    scenario = cell.scenario
    steps = np.arange(measure_of(scenario).num_steps)
    mass = _mass_recall_frac(cell, recording)
    tables = []
    for repetition, run in enumerate(runs):
        if not cell.is_peer:
            _check_counts(cell, runs[0], run)
        rows: Rows = {
            "cell": np.full(steps.size, number),
            "policy": np.array([cell.choice.shown] * steps.size, dtype=object),
            "repetition": np.full(steps.size, repetition),
            "is_stamped": np.full(steps.size, run is runs[-1]),
            "is_warmup": steps < scenario.run.warmup_steps,
            "step": steps,
            "context_tokens": _longest_tokens(scenario),
            "step_s": run.step_s,
            "mass_recall_frac": mass,
        }
        tables.append(rows | _parts(run, steps.size) | (runs[-1] if cell.is_peer else run).counts)
    return joined(tables)


def _longest_tokens(scenario: Scenario) -> NDArray[np.int64]:
    """Return the tokens of the longest sequence that still decodes, at each step."""
    steps = np.arange(measure_of(scenario).num_steps)
    tokens: NDArray[np.int64] = np.array(prompts_of(scenario))[:, None] + 1 + steps
    longest: NDArray[np.int64] = np.where(steps < np.array(steps_of(scenario))[:, None], tokens, 0).max(axis=0)
    return longest


def _mass_recall_frac(cell: Cell, recording: Recording) -> NDArray[np.float64]:
    """Return the share of full attention's mass that each step of the cell reads."""
    if cell.policy.attends == "selection":
        return recording.mass_recall_frac
    num_steps = measure_of(cell.scenario).num_steps
    if cell.policy.attends == "everything":
        return np.ones(num_steps)
    run_input = decode_input(cell)
    replay = replay_of(cell, recording.trace, num_steps)
    if not run_input.devices:
        return mass_recall_frac(cell, run_input.policy, run_input.setting, replay)
    shares = [
        mass_recall_frac(cell, own.policy, own.setting, replay.of_layers(own.layers)) for own in run_input.devices
    ]
    means: NDArray[np.float64] = np.average(shares, axis=0, weights=[len(own.layers) for own in run_input.devices])
    return means


def _parts(run: DecodeResult, num_steps: int) -> Rows:
    """Return the parts of each step in the columns of a simulated result; NaN where the run was not instrumented."""
    names = (*TIMES, *HOST_TIMES)
    if run.parts_s is None:
        return {name: np.full(num_steps, np.nan) for name in names}
    layer_sum = {name: spans.sum(axis=1) if spans.ndim > 1 else spans for name, spans in run.parts_s.items()}
    parts = {f"{name}_s": spans for name, spans in layer_sum.items()}
    parts["select_s"] = parts.pop("speculate_s") + parts["select_s"] + parts.pop("choose_s")
    parts["host_s"] = parts["sync_s"] + parts["decide_s"] + parts["submit_s"]
    return {name: parts[name] for name in names}


def _check_counts(cell: Cell, first: DecodeResult, other: DecodeResult) -> None:
    for name in (*COUNTED, "digest"):
        if not np.array_equal(first.counts[name], other.counts[name]):
            step = int(np.flatnonzero(first.counts[name] != other.counts[name])[0])
            raise EngineError(f"{cell.choice.shown}: {name} of step {step} differs between two runs of one cell")


def _extras(cell: Cell, rows: Rows, recording: Recording) -> MeasuredFigures:
    """Return what only a measurement knows of a cell."""
    counted = ~rows["is_warmup"]
    stamped = rows["is_stamped"]
    means_s = [
        float(rows["step_s"][counted & (rows["repetition"] == repetition)].mean())
        for repetition in np.unique(rows["repetition"][~stamped])
    ]
    stamped_s = float(rows["step_s"][counted & stamped].mean())
    selects = cell.policy.attends == "selection"
    return {
        "tpot_repeats_s": means_s,
        "instrument_overhead_frac": stamped_s / float(np.median(means_s)) - 1,
        "kl_mean_nats": recording.kl_mean_nats if selects else None,
        "greedy_agreement_frac": recording.greedy_agreement_frac if selects else None,
    }


MEASUREMENT: Measurement[Scenario] = Measurement(
    measure=measure, max_contexts=max_contexts, fresh_profile=fresh_profile
)
