"""The requests of a prefix-blocks scenario, as blocks."""

from __future__ import annotations

from pathlib import Path

from kvsim.errors import ScenarioError
from kvsim.experiments.requests import RequestsChoice
from kvsim.scenario.digest import content_digest
from kvsim.traces.requests.base import RequestBlocks
from kvsim.traces.requests.contents import blocks_of
from kvsim.traces.requests.registry import open_requests


def requests_of(choice: RequestsChoice, beside: Path | None) -> RequestBlocks:
    """Return the requests that a scenario replays, in the order of their arrival.

    Raises
    ------
    TraceError
        If the trace cannot be read, or a row is damaged.
    ScenarioError
        If the trace needs a tokenizer or an assumption that the scenario does not state.
    """
    trace = choice.open(beside)
    try:
        return blocks_of(
            trace,
            tokenizer=choice.tokenizer_from(beside),
            shared=choice.shared,
            num_requests=choice.num_requests,
        )
    except ScenarioError as error:
        raise ScenarioError(f"trace {choice.path}: {error}") from None


def recorded_requests(file: Path, block_tokens: int) -> RequestBlocks:
    """Return the requests that a measurement recorded."""
    return blocks_of(open_requests(file, "full-blocks", block_tokens=block_tokens))


def digest_of(requests: RequestBlocks) -> str:
    """Return a digest of lengths and blocks: equal digests, equal hits."""
    return content_digest(requests.input_tokens, requests.starts, requests.blocks)
