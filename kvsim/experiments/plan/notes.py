"""What a plan rests on, a line each, and the commands that put measurements in the place of estimates."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from kvsim.experiments.plan.request import UTILISATION_FRAC, Request
from kvsim.experiments.plan.result import Option
from kvsim.experiments.plan.scenario import MIDDLE_GROWTH_FRAC, TRACE
from kvsim.profile.estimate.coefficients import load_coefficients
from kvsim.scenario.decode import Scenario

GENERATOR_BIAS_FRAC = 0.033
"""By how much more of the attention mass selections of the generator read than those of its capture, at the capture's
own 4k tokens and a thirty-second to a quarter of its pages of 64 tokens, at most."""


def notes_of(request: Request, unsimulated: Sequence[str], options: Sequence[Option]) -> tuple[str, ...]:
    """Return what to know before one trusts a plan."""
    notes = [
        _of_positions(request),
        _of_memory(request),
        _of_times(request, unsimulated),
        _of_bits(options),
        _of_recall(options),
        _of_cards(options),
        _of_host(request, options),
    ]
    return tuple(note for note in notes if note)


def commands_of(request: Request, scenario: Scenario | None, file: str = "plan.toml") -> tuple[str, ...]:
    """Return commands that replace estimates by measurements, for where the card is; none without a scenario.

    Parameters
    ----------
    file
        Where the scenario was written.
    """
    if scenario is None:
        return ()
    file = shlex.quote(file)
    is_llama = request.spec.model_type in ("llama", "mistral", "qwen2", "qwen3")
    timed = f"--shape {shlex.quote(request.model)}" if is_llama else "--model MODEL_FOLDER"
    return (
        f"kvsim calibrate {timed} --device cuda --dtype {request.dtype} -o mine.toml",
        f"kvsim run {file} --set profile.path=mine.toml --set model.weights={request.dtype} "
        f"--set model.kv={request.dtype}",
        "kvsim capture --model MODEL_FOLDER --text TEXT_FILE -o mine.kvtrace --channel estimate:quest@64",
        f"kvsim run {file} --set trace.path=mine.kvtrace",
    )


def _of_positions(request: Request) -> str:
    limit = request.spec.max_positions
    if limit is None or request.context_tokens <= limit:
        return ""
    return f"{request.spec.name} was made for {limit:,} positions: beyond, what it says may be worth nothing."


def _of_memory(request: Request) -> str:
    card = request.card
    seen = (
        "as an application sees it" if card.cuda_memory_bytes else "as the driver reports it, an application sees less"
    )
    default = ", the default of vLLM" if request.utilisation_frac == UTILISATION_FRAC else ""
    return (
        f"Memory: {request.utilisation_frac:g} of the card's is used{default} (its total {seen}); activations are "
        f"those of a step of {max(request.step_tokens, request.batch):,} tokens, counted and not measured."
    )


def _of_times(request: Request, unsimulated: Sequence[str]) -> str:
    card, architectures = request.card, load_coefficients().architectures
    if unsimulated:
        return (
            f"Times are a roofline: {'; '.join(unsimulated)}, which kvsim does not simulate in pages. They are the "
            "least that bytes and operations take at the data sheet's rates; measured steps of other models took "
            "up to 2.9 times as long as their bytes."
        )
    near = f"kernels of {card.architecture}" if card.architecture in architectures else "kernels of other architectures"
    return (
        f"Times are simulated on an estimated profile: {near} and this card's data sheet, launched as "
        f"{'one graph' if request.runtime == 'graph' else 'single kernels'}. The interval holds nine in ten errors of "
        f"cards that were left out of the fit (docs/estimates.md). {card.notes}".strip()
    )


def _of_bits(options: Sequence[Option]) -> str:
    if len({(option.weights, option.kv) for option in options}) == 1:
        return ""
    return "Fewer bits lose quality, which kvsim does not measure; 100% of the mass is then attention over all tokens."


def _of_recall(options: Sequence[Option]) -> str:
    if all(option.recall_frac is None for option in options):
        return ""
    return (
        f"Attention mass is that of {TRACE} (SmolLM2-135M at 4k tokens, chosen by Quest's bound of a page's score), "
        f"stretched to this depth and context by a generator; each doubling moves {100 * MIDDLE_GROWTH_FRAC:.0f}% of "
        f"the recent window's mass to the middle. At 4k the generator reads up to {100 * GENERATOR_BIAS_FRAC:.0f} "
        "points more than the capture. Another model may attend otherwise: capture yours."
    )


def _of_cards(options: Sequence[Option]) -> str:
    if all(option.num_cards == 1 for option in options):
        return ""
    return (
        "More cards: layers shared out, as in `device_map`; a token passes them one after the other. Tensor "
        "parallelism is faster and is not priced."
    )


def _of_host(request: Request, options: Sequence[Option]) -> str:
    if request.card.unified_memory:
        return "Processor and GPU share one memory: nothing is gained by moving pages to the host."
    if request.host_memory_bytes is None and any(option.host_bytes for option in options):
        return "Host memory is taken as enough (--host-memory); pages in it are pinned."
    return ""
