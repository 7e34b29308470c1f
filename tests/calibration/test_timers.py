"""Repeats follow the noise, within a cap."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("torch")  # the room needs it

from kvsim.calibration.timers import Neighbours, repeat_s


def test_repeats_stop_at_the_cap():
    started_s = time.perf_counter()
    times_s = repeat_s(lambda: time.sleep(0.01), cap_s=0.1, max_repeats=10_000)
    assert times_s.min() >= 0.01
    assert time.perf_counter() - started_s < 5.0


def test_repeats_stop_at_their_number():
    assert repeat_s(lambda: None, cap_s=60.0, max_repeats=7).size <= 7


def test_warm_ups_are_not_counted():
    calls = []
    times_s = repeat_s(lambda: calls.append(None), cap_s=60.0, warmups=3, max_repeats=6)
    assert len(calls) == times_s.size + 3


def test_neighbours_do_not_count_this_program():
    neighbours = Neighbours()
    until_s = time.perf_counter() + 0.3
    while time.perf_counter() < until_s:
        pass
    assert 0.0 <= neighbours.busy_frac() < 64
