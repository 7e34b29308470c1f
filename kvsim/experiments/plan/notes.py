"""What a plan rests on, a line each, and the commands that reproduce it and replace estimates by measurements."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from kvsim.experiments.plan.choices import PAGE_TOKENS
from kvsim.experiments.plan.request import UTILISATION_FRAC, Request
from kvsim.experiments.plan.result import Option
from kvsim.experiments.plan.roofline import SLOWEST
from kvsim.experiments.plan.scenario import TRACE
from kvsim.profile.estimate.coefficients import load_coefficients
from kvsim.scenario.decode import Scenario
from kvsim.scenario.shipped import find_capture, find_generator
from kvsim.traces.generator.parameters import load_parameters


def warnings_of(request: Request) -> tuple[str, ...]:
    """Return what may make a plan worthless."""
    limit = request.spec.max_positions
    if limit is None or request.context_tokens <= limit:
        return ()
    return (f"{request.spec.name} has {limit:,} positions; beyond them its output may be meaningless.",)


def notes_of(request: Request, unsimulated: Sequence[str], options: Sequence[Option]) -> tuple[str, ...]:
    """Return what a plan rests on."""
    notes = [
        _of_memory(request, options),
        _of_times(request, unsimulated),
        _of_bits(options),
        _of_recall(options),
        _of_cards(options),
        _of_host(request, options),
    ]
    return tuple(note for note in notes if note)


def commands_of(request: Request, scenario: Scenario | None, file: str = "") -> tuple[str, ...]:
    """Return commands that reproduce a plan, and that replace estimates by measurements; none without a scenario.

    Parameters
    ----------
    file
        Where the scenario was written; empty where it was not.
    """
    if scenario is None:
        return ()
    name = shlex.quote(file or "plan.toml")
    is_llama = request.spec.model_type in ("llama", "mistral", "qwen2", "qwen3")
    timed = f"--shape {shlex.quote(request.model)}" if is_llama else "--model MODEL_FOLDER"
    return (
        *(() if file else (f"kvsim plan ... -o {name}",)),
        f"kvsim run {name}",
        f"kvsim calibrate {timed} --device cuda --dtype {request.dtype} -o mine.toml",
        f"kvsim capture --model MODEL_FOLDER --text TEXT_FILE -o mine.kvtrace --channel estimate:quest@{PAGE_TOKENS}",
        f"kvsim run {name} --set profile.path=mine.toml --set model.weights={request.dtype} "
        f"--set model.kv={request.dtype} --set trace.path=mine.kvtrace",
    )


def _of_memory(request: Request, options: Sequence[Option]) -> str:
    card = request.card
    seen = "what an application sees" if card.cuda_memory_bytes else "what the driver reports, less is usable"
    default = ", vLLM's default" if request.utilisation_frac == UTILISATION_FRAC else ""
    summaries = "; top-k adds summaries of pages" if any(option.recall_frac is not None for option in options) else ""
    return (
        f"Memory: counted. {request.utilisation_frac:g} of the card ({seen}) is used{default}; activations are those "
        f"of a step of {max(request.step_tokens, request.batch):,} tokens{summaries}."
    )


def _of_times(request: Request, unsimulated: Sequence[str]) -> str:
    card, architectures = request.card, load_coefficients().architectures
    if unsimulated:
        return (
            f"Times: a roofline, because its steps in pages are not simulated here: {'; '.join(unsimulated)}. They "
            "are the least that bytes and operations take at the data sheet's rates; measured steps of other models "
            f"took up to {SLOWEST} times as long as their bytes."
        )
    near = f"kernels of {card.architecture}" if card.architecture in architectures else "kernels of other architectures"
    runtime = "one graph" if request.runtime == "graph" else "single kernels"
    return (
        f"Times: simulated with costs estimated from the card's data sheet and {near}, launched as {runtime}. 9 in 10 "
        f"errors on cards left out of the fit lie in the intervals (docs/estimates.md). {card.notes}".strip()
    )


def _of_bits(options: Sequence[Option]) -> str:
    if len({(option.weights, option.kv) for option in options}) == 1:
        return ""
    return "Quality: fewer bits lose some, which is not counted; a recall of 100% is attention to all tokens."


def _of_recall(options: Sequence[Option]) -> str:
    if all(option.recall_frac is None for option in options):
        return ""
    file = find_generator(find_capture(TRACE), PAGE_TOKENS)
    assert file is not None  # it ships
    most_off = 100 * max(abs(one.bias_frac) for one in load_parameters(file).recall)
    return (
        f"Recall: what SmolLM2-135M attends to at 4k tokens ({TRACE}), stretched to this model and context by a "
        f"generator whose recall at 4k is within {most_off:.1f} points of the capture's. Capture your own model."
    )


def _of_cards(options: Sequence[Option]) -> str:
    if all(option.num_cards == 1 for option in options):
        return ""
    return "More cards: a token passes them one after the other; tensor parallelism is faster and is not priced."


def _of_host(request: Request, options: Sequence[Option]) -> str:
    if request.card.unified_memory:
        return "Host: processor and GPU share one memory, so nothing is gained by moving pages."
    if request.host_memory_bytes is None and any(option.host_bytes for option in options):
        return "Host: its memory is taken as enough; set --host-memory."
    return ""
