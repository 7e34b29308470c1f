"""Which requests of which trace a scenario takes: the same table for every experiment that reads request traces."""

from __future__ import annotations

from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt, field_validator

from kvsim.scenario.shipped import find_requests, near
from kvsim.scenario.toml import Strict, nearest
from kvsim.traces.requests.contents import BYTES, SharedBeginning
from kvsim.traces.requests.format import DEFAULT_BLOCK_TOKENS, TimeUnit
from kvsim.traces.requests.registry import FORMATS, RequestTrace, open_requests


class RequestsChoice(Strict):
    """Which requests arrive."""

    path: str
    """A shipped request trace by name, or a file."""
    format: str | None = None
    """One of docs/request-traces.md; found from the file's rows where absent."""
    block_tokens: PositiveInt | None = None
    """The format's own where absent."""
    time_unit: TimeUnit | None = None
    """Of the file's times; the format's own where absent."""
    num_requests: PositiveInt | None = None
    """Replay only the first so many."""
    part: str | None = None
    """Of an archive: the folder to read."""
    tokenizer: str | None = None
    """Of text: ``bytes`` (every byte of UTF-8 a token), or the folder of a model with its ``tokenizer.json``."""
    shared_tokens: NonNegativeInt | None = None
    """Of lengths: assume that every prompt begins with so many tokens that others begin with, too."""
    shared_by: PositiveInt = 1
    """How many different such beginnings there are; requests take them in turn."""

    @field_validator("format")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None and name not in FORMATS:
            raise ValueError(f"no format of request traces is called {name!r}{nearest(name, FORMATS)}")
        return name

    @property
    def tokens_of_block(self) -> int:
        """Tokens of a block, where no trace is read."""
        return self.block_tokens or (FORMATS[self.format].block_tokens if self.format else DEFAULT_BLOCK_TOKENS)

    @property
    def shared(self) -> SharedBeginning | None:
        """What is assumed of prompts of which only lengths are known."""
        return (
            None if self.shared_tokens is None else SharedBeginning(tokens=self.shared_tokens, variants=self.shared_by)
        )

    def tokenizer_from(self, beside: Path | None) -> str | None:
        """Return the tokenizer; a folder is looked for from here, then beside the scenario."""
        return self.tokenizer if self.tokenizer in (None, BYTES) else near(str(self.tokenizer), beside)

    def open(self, beside: Path | None) -> RequestTrace:
        """Return the trace, open for reading.

        Raises
        ------
        TraceError
            If the file cannot be read, or its rows suit no format.
        ScenarioError
            If the format has no unit of time to choose.
        """
        return open_requests(
            find_requests(self.path, beside),
            self.format,
            block_tokens=self.block_tokens,
            time_unit=self.time_unit,
            part=self.part,
        )
