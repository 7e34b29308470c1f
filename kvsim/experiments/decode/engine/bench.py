"""A model, its text and its prefilled contexts, kept ready for any number of decode runs on them."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kvsim.engine.capture.decode_trace import DecodeRecorder, trace_writer
from kvsim.engine.links.cuda import mechanism_named
from kvsim.engine.model.families import check_readable, weightings_of
from kvsim.engine.model.loading import load_model, shape_of
from kvsim.engine.model.text import read_text
from kvsim.engine.paged.baselines import decode_on, offloaded_cache
from kvsim.engine.paged.decode import DecodeResult, decode
from kvsim.engine.paged.decode_input import DecodeInput
from kvsim.engine.paged.prefill import Snapshot, prefill
from kvsim.errors import ScenarioError
from kvsim.scenario.shapes import DType, Quantisation
from kvsim.traces.access.base import MASS
from kvsim.traces.access.file import TraceFile, TraceWriter, open_trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What one context attends to under one selector, and what the selection loses against full attention."""

    trace: bytes
    """A trace file: the mass of full attention, and what the selector saw and chose."""
    mass_recall_frac: NDArray[np.float64]
    """Share of full attention's mass that the selection reads, mean over layers and sequences, ``[num_steps]``."""
    kl_mean_nats: float | None
    """Mean KL divergence of the next-token distribution from full attention's; None where all is read."""
    greedy_agreement_frac: float | None
    """Share of steps in which the most likely token is the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchInput:
    """What a bench is made of: cells that agree in it share one."""

    model_path: str
    dtype: DType
    text: str
    device: str
    num_threads: int
    """Threads that torch computes with; one count for all policies."""
    bandwidth_bytes_per_s: float | None
    """Stated bandwidth of the emulated link, or what a GPU's is slowed to; None: a GPU's as it is."""
    prefill_chunk_tokens: int
    mechanism: str
    """How a GPU's link copies, as its profile says."""
    quantisation: Quantisation | None


class Bench:
    """One model on one device, reading one text, teacher-forced."""

    def __init__(self, made_of: BenchInput) -> None:
        self.made_of = made_of
        self._model, tokenizer = load_model(
            made_of.model_path, made_of.dtype, made_of.device, quantisation=made_of.quantisation
        )
        self._mechanism = mechanism_named(made_of.mechanism)
        self._ids: NDArray[np.int64] = np.array(
            tokenizer(read_text(made_of.text), add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int64
        )
        self._snapshots: dict[tuple[tuple[int, ...], int], tuple[Snapshot, torch.Tensor]] = {}
        self.shape = shape_of(self._model)

    def snapshot(self, prompts: tuple[int, ...], num_steps: int) -> tuple[Snapshot, torch.Tensor]:
        """Return the prefilled context, made once, and the tokens to feed after it, ``[num_sequences, num_steps]``.

        Parameters
        ----------
        prompts
            Tokens of each sequence's prompt. A sequence reads the text from where the one before it ends.
        """
        key = prompts, num_steps
        if key not in self._snapshots:
            ends = np.cumsum(np.array(prompts) + num_steps)
            if self._ids.size < ends[-1]:
                of_each = ", ".join(map(str, prompts)) if len(set(prompts)) > 1 else f"{prompts[0]}"
                raise ScenarioError(
                    f"measure.text {self.made_of.text!r} has {self._ids.size} tokens; {len(prompts)} sequences of "
                    f"{of_each} and {num_steps} steps need {ends[-1]}"
                )
            check_readable(self._model, max(prompts) + num_steps, where="measure.prompt_tokens and measure.num_steps")
            ids = np.zeros((len(prompts), max(prompts) + num_steps), dtype=np.int64)
            for own, tokens, end in zip(ids, prompts, ends.tolist(), strict=True):
                own[-tokens - num_steps :] = self._ids[end - tokens - num_steps : end]
            padded, forced = torch.from_numpy(ids[:, : max(prompts)]), torch.from_numpy(ids[:, max(prompts) :])
            torch.set_num_threads(os.cpu_count() or 1)  # nothing is timed
            snapshot = prefill(
                self._model,
                padded,
                room_tokens=num_steps,
                chunk_tokens=self.made_of.prefill_chunk_tokens,
                sequence_tokens=prompts,
            )
            self._snapshots = {key: (snapshot, forced)}
        return self._snapshots[key]

    def run(
        self, run_input: DecodeInput, prompts: tuple[int, ...], *, is_stamped: bool = False, **options: Any
    ) -> DecodeResult:
        """Return one decode run over the text; `options` are those of `kvsim.engine.paged.decode.decode`."""
        snapshot, forced = self.snapshot(prompts, run_input.num_steps)
        torch.set_num_threads(self.made_of.num_threads)
        return decode(
            self._model,
            snapshot,
            run_input,
            bandwidth_bytes_per_s=self.made_of.bandwidth_bytes_per_s,
            forced_tokens=forced,
            is_stamped=is_stamped,
            mechanism=self._mechanism,
            **options,
        )

    def run_offloaded(
        self, prompts: tuple[int, ...], num_steps: int, *, page_tokens: int, counts_copies: bool
    ) -> DecodeResult:
        """Return a decode run over the text on transformers' own offloaded cache; see `engine.paged.baselines`."""
        snapshot, forced = self.snapshot(prompts, num_steps)
        return decode_on(
            offloaded_cache, self._model, snapshot, forced, page_tokens=page_tokens, counts_copies=counts_copies
        )

    def record(self, chosen: DecodeInput, full: DecodeInput, prompts: tuple[int, ...]) -> Recording:
        """Run `chosen`, which selects pages, and `full`, which reads all; neither is timed."""
        with tempfile.TemporaryDirectory() as folder:
            dense_path, sparse_path = Path(folder) / "dense.kvtrace", Path(folder) / "sparse.kvtrace"
            dense = self._record_run(full, prompts, dense_path)
            if not chosen.scores_pages:
                return Recording(
                    trace=dense_path.read_bytes(),
                    mass_recall_frac=np.ones(chosen.num_steps),
                    kl_mean_nats=None,
                    greedy_agreement_frac=None,
                )
            sparse = self._record_run(chosen, prompts, sparse_path)
            merged = Path(folder) / "merged.kvtrace"
            _merge(open_trace(dense_path), open_trace(sparse_path), merged)
            recall = _mass_recall(open_trace(merged), chosen)
            trace = merged.read_bytes()
        assert dense.logits is not None and sparse.logits is not None
        expected, actual = dense.logits.log_softmax(-1), sparse.logits.log_softmax(-1)
        goes_on = torch.from_numpy(_goes_on(chosen))
        kl = (expected.exp() * (expected - actual)).sum(-1)[goes_on]
        agree = (expected.argmax(-1) == actual.argmax(-1))[goes_on]
        return Recording(
            trace=trace,
            mass_recall_frac=recall,
            kl_mean_nats=float(kl.mean()),
            greedy_agreement_frac=float(agree.double().mean()),
        )

    def _record_run(self, run_input: DecodeInput, prompts: tuple[int, ...], path: Path) -> DecodeResult:
        snapshot, _ = self.snapshot(prompts, run_input.num_steps)
        model, text = Path(self.made_of.model_path).name, self.made_of.text
        with trace_writer(
            path, run_input, snapshot, self.shape, model=model, text=text, recorded="teacher-forced"
        ) as writer:
            return self.run(
                run_input,
                prompts,
                keeps_logits=True,
                observer=lambda pool: DecodeRecorder(writer, run_input, pool, weightings_of(self._model)),
            )


def _goes_on(run_input: DecodeInput) -> NDArray[np.bool_]:
    """Return whether each sequence still decodes at each step, ``[num_sequences, num_steps]``."""
    goes_on: NDArray[np.bool_] = np.arange(run_input.num_steps) < np.array(run_input.steps)[:, None]
    return goes_on


def _merge(dense: TraceFile, sparse: TraceFile, path: Path) -> None:
    """Write `sparse` with the mass of `dense`: the mass of full attention shows what a selection loses."""
    with TraceWriter(path, sparse.header) as writer:
        for step in range(sparse.num_steps):
            values: dict[str, NDArray[Any]] = dict(sparse.record(step))
            values[MASS] = dense.record(step)[MASS]
            writer.append(sparse.context_tokens(step).tolist(), values)


def _mass_recall(trace: TraceFile, run_input: DecodeInput) -> NDArray[np.float64]:
    recalls, goes_on = np.zeros((trace.num_steps, trace.num_layers)), _goes_on(run_input)
    for step, layer in np.ndindex(recalls.shape):
        mass = trace.mass(step, layer, run_input.page_tokens).astype(np.float64)[goes_on[:, step]]
        chosen = trace.selection(step, layer, run_input.page_tokens)
        assert chosen is not None  # the engine recorded it
        chosen = chosen[goes_on[:, step]]
        recalls[step, layer] = ((mass * chosen).sum(axis=1) / mass.sum(axis=1)).mean()
    means: NDArray[np.float64] = recalls.mean(axis=1)
    return means
