"""Token ids of prompts and outputs.

A prompt's ids follow from its segments: token i of seed s is ``10 + splitmix64(s * 1000003 + i) % 40000`` in 64 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import TraceError
from kvsim.experiments.serving.schedules.workload import OutputSegment, Workload, WorkloadRequest

_INVENTED_SEED = 2**40
"""Seeds from here on give the outputs of workloads that have none."""


def token_ids(seed: int, length: int, start: int = 0) -> NDArray[np.int64]:
    """Return tokens `start` to ``start + length - 1`` of the text with this seed.

    Examples
    --------
    >>> token_ids(1, 3)
    array([21614, 24845, 21975])
    """
    first = (seed * 1000003 + start + 0x9E3779B97F4A7C15) % 2**64
    mixed = np.arange(length, dtype=np.uint64) + np.uint64(first)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (10 + (mixed ^ (mixed >> np.uint64(31))) % np.uint64(40000)).astype(np.int64)


def output_ids(workload: Workload) -> list[NDArray[np.int64]]:
    """Return the outputs of each request: the file's own, or invented ones that no other text has.

    Invented are as many as the request asks for and the model has room for.
    """
    if workload.outputs is not None:
        return [np.array(workload.outputs[request.id], dtype=np.int64) for request in workload.requests]
    longest = workload.engine.max_model_len
    lengths = [min(request.max_tokens, longest - request.prompt_tokens) for request in workload.requests]
    return [token_ids(_INVENTED_SEED + place, length) for place, length in enumerate(lengths)]


def prompt_ids(
    request: WorkloadRequest, outputs: Sequence[NDArray[np.int64]], places: dict[str, int]
) -> NDArray[np.int64]:
    """Return the prompt of a request.

    Parameters
    ----------
    outputs, places
        Outputs of each request, and the place of each request by its id.

    Raises
    ------
    TraceError
        If it contains more outputs of another request than that has.
    """
    pieces = []
    for piece in request.segments:
        if isinstance(piece, OutputSegment):
            source = outputs[places[piece.output_of]]
            if len(source) < piece.length:
                problem = f"its prompt has {piece.length} outputs of {piece.output_of!r}, which has {len(source)}"
                raise TraceError(f"request {request.id!r}", problem)
            pieces.append(source[: piece.length])
        else:
            pieces.append(token_ids(*piece))
    return np.concatenate(pieces)
