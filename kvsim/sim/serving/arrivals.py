"""Requests arrive: at times of their own, or some time after the request before them in their session has ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import simpy

from kvsim.sim.clock import Process
from kvsim.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """Which requests follow which, and when sessions begin. Requests are numbered session by session."""

    first: IntArray
    """``[num_sessions + 1]``: the requests of session s are ``first[s]`` to ``first[s + 1] - 1``, one after another."""
    start_s: FloatArray | None
    """``[num_sessions]``, in order: when each session begins; None where users take them (`num_users`)."""
    pause_s: FloatArray
    """``[num_requests]``: from the end of the request before in the session, or of the user's session before."""
    num_users: int = 0
    """Closed loop: so many users take one session after another, in their order."""

    @property
    def num_requests(self) -> int:
        """Requests of all sessions."""
        return int(self.first[-1])


class Arrivals:
    """Submits every request when it is due; `finished` must be called with each request that has ended.

    Parameters
    ----------
    submit
        Takes a request that arrives.
    """

    def __init__(self, env: simpy.Environment, sessions: Sessions, submit: Callable[[int], None]) -> None:
        self._env = env
        self._sessions = sessions
        self._submit = submit
        self._first: list[int] = sessions.first.tolist()
        self._pause_s: list[float] = sessions.pause_s.tolist()
        is_last = bytearray(sessions.num_requests)
        for end in self._first[1:]:
            is_last[end - 1] = True
        self._is_last = is_last
        self._next_session = 0
        if sessions.start_s is not None:
            env.process(self._open(sessions.start_s.tolist()))
        for _ in range(sessions.num_users):
            self._take_session()

    def finished(self, request: int) -> None:
        """Let whoever waits for the end of a request go on."""
        if not self._is_last[request]:
            self._submit_after_pause(request + 1)
        elif self._sessions.start_s is None:
            self._take_session()

    def _open(self, start_s: list[float]) -> Process[None]:
        env = self._env
        for session, at_s in enumerate(start_s):
            if at_s > env.now:
                yield env.timeout(at_s - env.now)
            self._submit(self._first[session])

    def _take_session(self) -> None:
        """Let a user begin the next session, if there is one left."""
        if self._next_session < len(self._first) - 1:
            self._submit_after_pause(self._first[self._next_session])
            self._next_session += 1

    def _submit_after_pause(self, request: int) -> None:
        pause = self._env.timeout(self._pause_s[request])
        pause.callbacks.append(lambda _: self._submit(request))
