"""What compiling a policy is worth: the time of its own decisions, compiled and plain, in one process.

    python bench/decisions.py [--json]

30 layers of 128 pages in one pool, a third of them on the device, 8 selected a layer; the policy's `decide` alone,
without the cache state. Medians over the decisions of 20 steps, compiled and plain by turns.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np

from kvsim.policies import POLICIES, Plan, Policy, View, make_policy
from kvsim.policies.testing.driving import MadeAccesses, drive, setting_for

WARMUP_STEPS, STEPS, LAYERS = 5, 20, 30


def decide_s(name: str, *, compiled: bool) -> float:
    """Return the median time of a decision, in seconds."""
    accesses = MadeAccesses(
        num_steps=WARMUP_STEPS + STEPS,
        num_layers=LAYERS,
        num_sequences=1,
        pages_per_layer=128,
        k_pages=8,
        everything=False,
        seed=0,
    )
    setting = setting_for(
        accesses, capacity_pages=accesses.grid.num_pages // 3, partition="shared", quota_pages=2, seed=0
    )
    policy = make_policy(name, setting, {"compiled": compiled})
    times_s: list[float] = []
    _clock(policy, times_s)
    for _ in drive(policy, setting, accesses):
        pass
    return float(np.median(times_s[WARMUP_STEPS * LAYERS :]))


def _clock(policy: Policy, times_s: list[float]) -> None:
    inner: Callable[[View], Plan] = policy.decide

    def timed(view: View) -> Plan:
        started_s = time.perf_counter()
        plan = inner(view)
        times_s.append(time.perf_counter() - started_s)
        return plan

    policy.decide = timed  # type: ignore[method-assign]


def main() -> None:
    """Print the table, or JSON."""
    found = {}
    for name, entry in POLICIES.items():
        if entry.compiled is None:
            continue
        decide_s(name, compiled=True)  # compiles
        pairs = [(decide_s(name, compiled=True), decide_s(name, compiled=False)) for _ in range(3)]
        compiled_s, plain_s = (float(np.median(times)) for times in zip(*pairs, strict=True))
        found[name] = {"compiled_s": compiled_s, "plain_s": plain_s, "ratio": plain_s / compiled_s}
    if "--json" in sys.argv:
        print(json.dumps(found, indent=2))
        return
    print(f"{'policy':<16} {'plain us':>9} {'compiled us':>12} {'ratio':>6}")
    for name, row in found.items():
        print(f"{name:<16} {row['plain_s'] * 1e6:>9.1f} {row['compiled_s'] * 1e6:>12.1f} {row['ratio']:>6.1f}")


if __name__ == "__main__":
    main()
