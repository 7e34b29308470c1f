"""The benchmark of decode steps runs every path, and all of them simulate the same."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc

from kvsim.policies import make_policy
from kvsim.profile.profile import load_profile
from kvsim.scenario.shipped import find_profile
from tests.scripts import ROOT, load_script


def test_every_path_is_timed_and_the_fast_path_does_what_events_do() -> None:
    command = [sys.executable, str(ROOT / "bench" / "decode_steps.py"), "--steps", "64", "--repeats", "1", "--json"]
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    paths = found["paths"]
    assert set(found["steps_per_s"]) == set(paths)
    assert all(rate > 0 for rate in found["steps_per_s"].values())
    assert found["compared_steps"] == 64
    for one, other in (("event_compiled", "fast_path_compiled"), ("full_model_events", "full_model")):
        for name in ("misses", "prefetched", "used", "late", "step_s", "stall_s"):
            assert paths[one][name] == paths[other][name]


def test_memory_does_not_grow_with_steps() -> None:
    bench = load_script("bench/decode_steps.py")
    profile = bench.reduced(load_profile(find_profile("cpu-smollm2-135m")))
    peaks = []
    for num_steps in (256, 20_480, 61_440):  # the first compiles; whole periods and many chunks, so that none is cut
        run = bench.make_input(profile, num_steps, 7, lambda setting: make_policy("lru", setting, bench.PREFETCH))
        tracemalloc.start()
        bench.timed(run, by_events=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.02 * peaks[1]
