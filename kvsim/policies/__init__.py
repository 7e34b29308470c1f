"""The built-in policies by name, and how a scenario's choice becomes a fresh policy object.

Adding one: a file beside this and a line in `registry`. Somebody else's policy needs neither: a scenario names
``package.module:Class``.
"""

from __future__ import annotations

from kvsim.policies.base import NOTHING, Plan, Policy, Setting, View
from kvsim.policies.composed import Admission, Evictor, Paged, Prefetcher
from kvsim.policies.make import cost_name, find_policy, make_policy
from kvsim.policies.registry import ADMISSIONS, POLICIES, PREFETCHERS, Entry
from kvsim.policies.residency import Decision, Residency

__all__ = [
    "ADMISSIONS",
    "NOTHING",
    "POLICIES",
    "PREFETCHERS",
    "Admission",
    "Decision",
    "Entry",
    "Evictor",
    "Paged",
    "Plan",
    "Policy",
    "Prefetcher",
    "Residency",
    "Setting",
    "View",
    "cost_name",
    "find_policy",
    "make_policy",
]
