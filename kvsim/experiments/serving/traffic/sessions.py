"""Which requests of a trace are turns of one session: as the trace says, or by what their prompts begin with."""

from __future__ import annotations

from collections.abc import Sequence

from kvsim.errors import ScenarioError


def sessions_by_prefix(blocks: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the requests of each session, in order; sessions in the order of their first requests.

    A request continues the latest earlier one all of whose blocks it begins with, unless that has been continued
    already; it then begins a session of its own. An id stands for everything before it, so it is enough to look at
    the last block of the earlier request.

    Parameters
    ----------
    blocks
        Ids of the full blocks of each prompt.

    Examples
    --------
    >>> sessions_by_prefix([[1, 2], [7], [1, 2, 3], [1, 2, 4], [1, 2, 3, 5], []])
    [[0, 2, 4], [1], [3], [5]]
    """
    ends_with: dict[int, int] = {}
    session_of: dict[int, int] = {}
    sessions: list[list[int]] = []
    for number, ids in enumerate(blocks):
        before = next((ends_with[block] for block in reversed(ids) if block in ends_with), None)
        if before is not None and sessions[session_of[before]][-1] == before:
            session_of[number] = session_of[before]
            sessions[session_of[number]].append(number)
        else:
            session_of[number] = len(sessions)
            sessions.append([number])
        if ids:
            ends_with[ids[-1]] = number
    return sessions


def stated_sessions(names: Sequence[str | None], path: str) -> list[list[int]]:
    """Return the requests of each session that a trace names, in order; one without a name is a session by itself.

    Raises
    ------
    ScenarioError
        If the trace names none.

    Examples
    --------
    >>> stated_sessions(["a", "b", None, "a"], "trace.jsonl")
    [[0, 3], [1], [2]]
    """
    if all(name is None for name in names):
        raise ScenarioError(f"trace {path}: it names no sessions: leave trace.sessions out, or set it to 'by-prefix'")
    sessions: dict[str | int, list[int]] = {}
    for number, name in enumerate(names):
        sessions.setdefault(number if name is None else name, []).append(number)
    return list(sessions.values())
