"""The jobs that are commands of kvsim: cross-checks, captures of real text, and the seed experiments."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpu_parts.jobs import LeftOutError, Outcome, Setting, write_json, write_text
from gpu_parts.profiles import slowed_path, trained_path
from kvsim.cli import run_command
from kvsim.engine.model.text import read_text
from kvsim.experiments.decode.report.targets import verdict_lines
from kvsim.scenario.shipped import shipped_scenarios

SCENARIO = "crosscheck_cuda"
CAPTURED_TOKENS, DECODED_TOKENS = 7900, 256
"""Together within the trained model's 8,192 positions."""

SMALL: dict[str, Sequence[str]] = {
    SCENARIO: (
        "measure.prompt_tokens=200",
        "budget.context_frac=[0.8]",
        "selector.k_pages=2",
        "measure.num_steps=6",
        "measure.repeats=1",
        "run.warmup_steps=1",
    ),
    "kv_prefetch": ("measure.prompt_tokens=100", "selector.name=full", "budget.pages_per_layer=8")
    + ("measure.num_steps=6", "measure.repeats=1", "run.warmup_steps=1"),
    "kv_on_off": ("run.batch=[1]", "run.prompt_tokens=[32]", "run.new_tokens=3", "run.repeats=1"),
    "prompt_cache": ("prompts.document_tokens=[64]", "cache.tier=device", "measure.repeats=1"),
    "embedding_cache": ('run.mode=["steady"]', "cache.budget_rows=[256]", "measure.requests=1", "measure.repeats=1"),
    "prompt_modules": ("cache.tier=device", "cache.policy=lru", "cache.budget_frac=1.0", "measure.repeats=1")
    + ("stream.num_requests=2", "measure.answer_tokens=2"),
}
"""What a scenario is cut down to where the command itself is tried."""

AS_IT_IS = ("run.batch=4", "page_tokens=16", "sweep.measure.prompt_tokens=[1000,2000]", "measure.repeats=3")
"""The grid over the link at its own speed: more sequences and smaller pages, as far as the trained model can stall."""

MEASURED_ONLY = ("kv_prefetch",)
"""Experiments that are measured and shown; the others are cross-checked."""


def crosscheck_slowed(setting: Setting) -> Outcome:
    """Cross-check over the slowed link."""
    return _crosscheck(setting, "slowed", slowed_path(setting), ())


def crosscheck_as_it_is(setting: Setting) -> Outcome:
    """Cross-check over the link as it is."""
    return _crosscheck(setting, "as-it-is", trained_path(setting), () if setting.is_small else AS_IT_IS)


def _crosscheck(setting: Setting, name: str, profile: Path, overrides: Sequence[str]) -> Outcome:
    folder = setting.folder("crosscheck")
    figures = _command_json(
        ["crosscheck", SCENARIO, *_sets(setting, SCENARIO, profile, overrides), "--no-calibrate"],
        folder / name,
    )
    lines = verdict_lines(figures)
    files = [write_json(folder / f"{name}.json", figures), write_text(folder / f"{name}.txt", "\n".join(lines))]
    error = figures.get("tpot_median_error_frac")
    headline = (
        f"counts {'equal' if figures['counts_equal'] else 'DIFFER'}, median error "
        f"{100 * error:.1f}%, worst {100 * figures['tpot_worst_error_frac']:.1f}%, "
        f"{100 * figures['stall_cells_frac']:.0f}% of the cells stall"
        if error is not None
        else "counts differ: no times compared"
    )
    return Outcome(headline=headline, files=[*files, *_all_below(folder / name)])


def capture(text: str) -> Callable[[Setting], Outcome]:
    """Return what captures the trained model reading one of the texts that every Python has."""

    def run(setting: Setting) -> Outcome:
        folder = setting.folder("captures")
        words = write_text(folder / f"{text}.txt", read_text(text)[: 8000 if setting.is_small else 200_000])
        prompt, decoded = (200, 4) if setting.is_small else (CAPTURED_TOKENS, DECODED_TOKENS)
        target = folder / f"smollm2-{text.removeprefix('python-')}-8k.kvtrace"
        _command(
            ["capture", "--model", str(setting.trained()), "--text", str(words), "-o", str(target)]
            + ["--prompt-tokens", str(prompt), "--decode-tokens", str(decoded)]
            + ["--device", setting.device, "--dtype", "bf16"]
        )
        told = _command(["trace", "info", str(target), "--no-figures"])
        files = [target, words, write_text(folder / f"{text}.info.txt", told)]
        headline = f"{prompt} tokens read, {decoded} steps, {target.stat().st_size / 1e6:.1f} MB"
        return Outcome(headline=headline, files=files)

    return run


def seed(name: str) -> Callable[[Setting], Outcome]:
    """Return what runs one experiment with the trained model's profile of this machine."""

    def run(setting: Setting) -> Outcome:
        if name not in shipped_scenarios():
            raise LeftOutError(f"there is no scenario {name}")
        folder = setting.folder("seeds")
        target = folder / name
        sets = _sets(setting, name, trained_path(setting), ())
        if name in MEASURED_ONLY:
            figures = _command_json(["measure", name, *sets], target)
            [result] = sorted(path.parent for path in target.rglob("manifest.json"))[-1:]
            told = _command(["experiment", str(result)])
            headline = f"{len(figures['cells'])} cells measured"
        else:
            figures = _command_json(["crosscheck", name, *sets], target)
            told = "\n".join(f"{key}: {value}" for key, value in figures.items() if not isinstance(value, list | dict))
            headline = ", ".join(
                f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in list(figures.items())[:4]
                if not isinstance(value, list | dict)
            )
        files = [write_json(folder / f"{name}.json", figures), write_text(folder / f"{name}.txt", told)]
        return Outcome(headline=headline, files=[*files, *_all_below(target)])

    return run


def _sets(setting: Setting, name: str, profile: Path, overrides: Sequence[str]) -> list[str]:
    """Return the options that make a scenario run with this machine's profile and model."""
    if not profile.is_file():
        raise LeftOutError(f"{profile.name} is missing; the job that makes it has to be done first")
    values = [f'profile.path="{profile.resolve()}"', f'model.path="{setting.trained().resolve()}"', *overrides]
    values += SMALL[name] if setting.is_small else ()
    return [word for value in values for word in ("--set", value)]


def _command_json(arguments: list[str], folder: Path) -> dict[str, Any]:
    """Run a command of kvsim that writes into a fresh `folder`, and return what it prints as JSON."""
    shutil.rmtree(folder, ignore_errors=True)
    found: dict[str, Any] = json.loads(_command([*arguments, "-o", str(folder), "--json"]))
    return found


def _command(arguments: list[str]) -> str:
    """Run a command of kvsim here and return what it prints; its manifests name it as if it had been typed."""
    print(f"  kvsim {' '.join(arguments)}", flush=True)
    before, output = sys.argv, io.StringIO()
    sys.argv = ["kvsim", *arguments]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(_Told()) as told:
            code = run_command(arguments)
    finally:
        sys.argv = before
    if code:
        raise RuntimeError(f"kvsim {arguments[0]} ended with {code}: {told.last}")
    return output.getvalue()


class _Told(io.StringIO):
    """Passes on what a command complains of, and keeps its last line."""

    last = ""

    def write(self, text: str) -> int:
        """Print `text` where the log is."""
        self.last = text.strip() or self.last
        return sys.__stderr__.write(text) if sys.__stderr__ is not None else len(text)


def _all_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
