"""The benchmark of decode steps runs every path, and all of them simulate the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_path_is_timed_and_whole_steps_do_what_events_do() -> None:
    command = [sys.executable, str(ROOT / "bench" / "decode_steps.py"), "--steps", "64", "--repeats", "1", "--json"]
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    paths = found["paths"]
    assert set(found["steps_per_s"]) == set(paths)
    assert all(rate > 0 for rate in found["steps_per_s"].values())
    assert found["compared_steps"] == 64
    for one, other in (("event_compiled", "whole_step_compiled"), ("full_model_events", "full_model")):
        for name in ("misses", "prefetched", "used", "late", "step_s", "stall_s"):
            assert paths[one][name] == paths[other][name]
