"""What a scenario of generation with and without a KV cache may say."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from kvsim.experiments.base import CacheScenario
from kvsim.scenario.toml import Strict


class Generation(Strict):
    """What is generated, and how often it is measured."""

    use_cache: bool = True
    """False: every step runs the whole context through the model again."""
    batch: PositiveInt = 1
    prompt_tokens: PositiveInt = 128
    new_tokens: PositiveInt = 128
    text: str = "python-docs"
    """What is read: ``python-docs``, ``python-code``, or a UTF-8 text file; generation is greedy."""
    repeats: PositiveInt = 1
    """Timed runs of every cell; one untimed run that measures memory comes besides."""


class KvOnOff(CacheScenario):
    """Generation with and without a KV cache: what it saves in time and takes in memory."""

    kind: Literal["kv-on-off"]
    run: Generation
