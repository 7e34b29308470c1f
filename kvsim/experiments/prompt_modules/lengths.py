"""How many tokens the texts of a schema have: by a model's tokenizer, or recorded, so that a run needs neither."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvsim.errors import ScenarioError, TraceError
from kvsim.experiments.base import model_path_of
from kvsim.experiments.prompt_modules.case import Source
from kvsim.experiments.prompt_modules.scenario import PromptModules
from kvsim.experiments.prompt_modules.schema import LengthOf, assemble, lay_out
from kvsim.scenario.digest import content_digest
from kvsim.scenario.regular_files import read_text
from kvsim.scenario.shipped import near
from kvsim.traces.tokens.text import tokens_of


def texts_of(scenario: PromptModules, source: Source) -> list[str]:
    """Return every text whose tokens a case counts, each once."""
    met: dict[str, None] = {}

    def length_of(text: str) -> int:
        met[text] = None
        return 1

    layout = lay_out(source.schema, length_of)
    for prompt in source.prompts:
        assemble(layout, prompt, length_of, around=(scenario.prompts.opening, scenario.prompts.closing))
    return list(met)


def lengths_of(scenario: PromptModules, source: Source, beside: Path | None) -> LengthOf:
    """Return what counts the tokens of the scenario's texts: its file of lengths, or else the model's tokenizer.

    Raises
    ------
    ScenarioError
        If there is neither, or the file lacks a text.
    """
    if scenario.prompts.lengths_file:
        return _recorded_lengths(Path(near(scenario.prompts.lengths_file, beside)))
    folder = Path(model_path_of(scenario, beside))
    if importlib.util.find_spec("tokenizers") is None:
        raise ScenarioError(
            f"{scenario.name}: prompts.lengths_file is not given, and the model's tokenizer needs the package "
            "tokenizers: pip install tokenizers"
        )
    texts = texts_of(scenario, source)
    try:
        encoded = tokens_of(texts, folder)
    except TraceError as problem:
        raise ScenarioError(
            f"{problem}; `make model` writes one to .cache/models, or give the tokens of every text in "
            "prompts.lengths_file"
        ) from None
    return {text: len(ids) for text, ids in zip(texts, encoded, strict=True)}.__getitem__


def lengths_json(lengths: Mapping[str, int], tokenizer: str) -> bytes:
    """Return a file of lengths: tokens by a digest of each text."""
    tokens = {content_digest(text): length for text, length in lengths.items()}
    return (json.dumps({"tokenizer": tokenizer, "tokens": tokens}, indent=1) + "\n").encode()


def check_lengths(scenario: PromptModules, lengths: Mapping[str, int], beside: Path | None) -> None:
    """Refuse a file of lengths that another tokenizer made.

    Raises
    ------
    ScenarioError
        Naming the first text that differs.
    """
    if not scenario.prompts.lengths_file:
        return
    recorded = _recorded_lengths(Path(near(scenario.prompts.lengths_file, beside)))
    for text, length in lengths.items():
        if recorded(text) != length:
            raise ScenarioError(
                f"{scenario.prompts.lengths_file}: {text[:40]!r} has {recorded(text)} tokens there, {length} by the "
                'model\'s tokenizer; measure with prompts.lengths_file = "": the result has a file that fits'
            )


def _recorded_lengths(file: Path) -> LengthOf:
    known = _read_lengths(file)

    def length_of(text: str) -> int:
        if content_digest(text) not in known:
            raise ScenarioError(
                f'{file}: has no length of the text {text[:40]!r}; with prompts.lengths_file = "" the model\'s '
                "tokenizer counts"
            )
        return known[content_digest(text)]

    return length_of


def _read_lengths(file: Path) -> dict[str, int]:
    try:
        content: Any = json.loads(read_text(file))
    except OSError as problem:
        raise ScenarioError(f"{file}: cannot read the file of lengths: {problem.strerror}") from None
    except (ValueError, RecursionError) as problem:
        raise ScenarioError(f"{file}: not valid JSON: {problem}") from None
    tokens = content.get("tokens") if isinstance(content, dict) else None
    if not isinstance(tokens, dict) or not all(type(value) is int and 0 <= value < 2**31 for value in tokens.values()):
        raise ScenarioError(f"{file}: no file of lengths; `kvsim measure` writes one as lengths.json")
    return tokens
