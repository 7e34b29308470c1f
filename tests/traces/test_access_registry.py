"""A format of access traces that somebody adds is reachable from a scenario: one file and one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kvsim.errors import TraceError
from kvsim.experiments.registry import load_scenario, simulate
from kvsim.scenario.shipped import find_capture, find_scenario
from kvsim.traces.access.file import TraceFile, open_trace
from kvsim.traces.access.registry import ACCESS_FORMATS, AccessFormat, is_access_trace, open_accesses

MAGIC = b"POINTER "


def open_pointer(path: Path) -> TraceFile:
    """Return the trace that a file of the toy format points to."""
    return open_trace(Path(path.read_bytes().removeprefix(MAGIC).decode()))


def test_a_new_format_is_replayed_by_a_scenario(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(
        ACCESS_FORMATS, "pointer", AccessFormat(matches=lambda head: head.startswith(MAGIC), open=open_pointer)
    )
    capture = find_capture("smollm2-docs")
    (tmp_path / "capture.pointer").write_bytes(MAGIC + str(capture).encode())
    tables = []
    for path in (capture, tmp_path / "capture.pointer"):
        overrides = [f"trace.path={path}", "trace.num_steps=20", "run.warmup_steps=4", "run.policies=['lru']"]
        loaded = load_scenario(find_scenario("smollm2_cpu"), [*overrides, "budget.pages_per_layer=16"])
        tables.append(simulate(loaded, loaded.job()).rows)
    assert np.array_equal(tables[0]["misses"], tables[1]["misses"])
    assert tables[0]["misses"].sum() > 0


def test_a_file_of_no_format_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"neither")
    assert not is_access_trace(tmp_path / "a")
    with pytest.raises(TraceError, match="not an access trace"):
        open_accesses(tmp_path / "a")
    with pytest.raises(TraceError, match="No such file"):
        open_accesses(tmp_path / "b")


def test_a_name_that_neither_ships_nor_is_a_file_is_reported() -> None:
    with pytest.raises(TraceError, match="did you mean 'smollm2-docs'"):
        find_capture("smollm2-dcos")
