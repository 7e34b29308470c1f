"""All requests of a run as columns."""

from __future__ import annotations

from dataclasses import dataclass

from kvsim.policies.schedulers.request import Request
from kvsim.types import IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTable:
    """The requests that may come, ``[num_requests]`` a column: what `Request` says of them before they arrive."""

    prompt_tokens: IntArray
    max_tokens: IntArray
    stop_tokens: IntArray
    priority: IntArray
    arrival: IntArray
    rank: IntArray

    def __len__(self) -> int:
        return int(self.prompt_tokens.size)

    def requests(self) -> list[Request]:
        """Return the requests as objects, each with its row as its index."""
        names = ("prompt_tokens", "max_tokens", "stop_tokens", "priority", "arrival", "rank")
        columns = (getattr(self, name).tolist() for name in names)
        rows = zip(*columns, strict=True)
        return [Request(index=index, **dict(zip(names, row, strict=True))) for index, row in enumerate(rows)]
