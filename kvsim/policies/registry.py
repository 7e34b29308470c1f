"""The built-in policies and parts of policies by name, with where each comes from; a class is imported when asked for.

Adding one is a file beside this and a line here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeAlias

from kvsim._moved.policies import NEW_PLACES
from kvsim.errors import ScenarioError
from kvsim.policies.attribution import careful_import
from kvsim.scenario.toml import nearest

Kind: TypeAlias = Literal["policy", "dropping", "eviction", "prefetch", "admission"]
"""``policy``: decides all by itself. ``dropping``: too, and what leaves is gone. ``eviction``: a policy with any
prefetcher and any admission beside it.
"""


PlugIns: TypeAlias = Mapping[str, Any]
"""Policies and parts of policies by ``module:Class``, for those that cannot be imported by it, as from a notebook.

A value is a class, or an instance: a template of which every run gets a deep copy (`kvsim.policies.make`).
"""

NO_PLUG_INS: PlugIns = {}


@dataclass(frozen=True, slots=True)
class Entry:
    """One built-in class: where it is and where its idea comes from."""

    path: str
    """``module:Class``, in plain Python."""
    kind: Kind
    source: str
    """The paper or system."""
    compiled: str | None = None
    """``module:Class`` of its compiled twin, which decides the same and is used unless asked otherwise."""
    is_oracle: bool = False
    """Whether it is handed the future: a bound, not something to run."""


def _evictor(name: str, source: str, *, is_oracle: bool = False) -> Entry:
    """Return the entry of an evictor whose compiled twin stands in `kvsim.policies.evictors.compiled`."""
    twin = f"kvsim.policies.evictors.compiled:Compiled{name.partition(':')[2]}"
    return Entry(f"kvsim.policies.evictors.{name}", "eviction", source, compiled=twin, is_oracle=is_oracle)


POLICIES: dict[str, Entry] = {
    "resident": Entry(
        "kvsim.policies.standalone.resident:Resident", "policy", "the upper bound on speed: everything fits"
    ),
    "dense": Entry("kvsim.policies.standalone.dense:Dense", "policy", "full attention: what fits, read whole"),
    "stream": Entry("kvsim.policies.standalone.stream:Stream", "policy", "FlexGen, arXiv 2303.06865"),
    "attention": Entry(
        "kvsim.policies.standalone.attention:Attention",
        "policy",
        "ours; ArkVale (NeurIPS 2024), FreeKV",
        compiled="kvsim.policies.standalone.compiled_attention:CompiledAttention",
    ),
    "predictive": Entry(
        "kvsim.policies.standalone.predictive:Predictive",
        "policy",
        "ours, on InfiniGen's prediction",
        compiled="kvsim.policies.standalone.compiled_predictive:CompiledPredictive",
    ),
    "sink-window": Entry(
        "kvsim.policies.dropping.sink_window:SinkWindow", "dropping", "StreamingLLM, arXiv 2309.17453"
    ),
    "h2o": Entry("kvsim.policies.dropping.h2o:HeavyHitters", "dropping", "H2O, arXiv 2306.14048"),
    "snapkv": Entry("kvsim.policies.dropping.snapkv:SnapKv", "dropping", "SnapKV, arXiv 2404.14469"),
    "lru": _evictor("lru:Lru", "Denning, CACM 1968"),
    "fifo": _evictor("fifo:Fifo", "Belady, IBM Systems Journal 1966"),
    "lfu": _evictor("lfu:Lfu", "Coffman and Denning 1973"),
    "arc": _evictor("arc:Arc", "Megiddo and Modha, FAST 2003"),
    "s3-fifo": _evictor("s3_fifo:S3Fifo", "Yang and others, SOSP 2023"),
    "sieve": _evictor("sieve:Sieve", "Zhang and others, NSDI 2024"),
    "importance-rank": _evictor("importance_rank:ImportanceRank", "ArkVale, NeurIPS 2024"),
    "scored-recency": _evictor("scored_recency:ScoredRecency", "InfLLM, arXiv 2402.04617"),
    "random": _evictor("random_pages:RandomPages", "the baseline of the others"),
    "belady": _evictor("belady:Belady", "Belady, IBM Systems Journal 1966", is_oracle=True),
}

PREFETCHERS: dict[str, Entry] = {
    "none": Entry("kvsim.policies.prefetchers.none:NoPrefetch", "prefetch", "on demand only"),
    "previous-step": Entry(
        "kvsim.policies.prefetchers.previous_step:PreviousStep", "prefetch", "FreeKV, arXiv 2505.13109"
    ),
    "next-step": Entry(
        "kvsim.policies.prefetchers.next_step:NextStep", "prefetch", "FreeKV, arXiv 2505.13109, over a window"
    ),
    "window-union": Entry(
        "kvsim.policies.prefetchers.window_union:WindowUnion", "prefetch", "SparseServe, arXiv 2509.24626"
    ),
    "attention": Entry("kvsim.policies.prefetchers.attention:AttentionPrefetch", "prefetch", "ours; ArkVale, FreeKV"),
    "speculation": Entry("kvsim.policies.prefetchers.speculation:Speculation", "prefetch", "InfiniGen, OSDI 2024"),
    "corrected": Entry("kvsim.policies.prefetchers.corrected:CorrectedSpeculation", "prefetch", "ours, on InfiniGen's"),
    "learned": Entry("kvsim.policies.prefetchers.learned:Learned", "prefetch", "ours: online logistic regression"),
    "oracle-prefetch": Entry(
        "kvsim.policies.prefetchers.oracle:OraclePrefetch", "prefetch", "Cao et al., SIGMETRICS 1995", is_oracle=True
    ),
}

ADMISSIONS: dict[str, Entry] = {
    "always": Entry("kvsim.policies.admission:Always", "admission", "the usual"),
    "second-touch": Entry("kvsim.policies.admission:SecondTouch", "admission", "Maggs and Sitaraman, CCR 2015"),
}


def load_class(path: str, what: str) -> type[Any]:
    """Return the class at ``module:Class``; `what` begins the message where there is none.

    Raises
    ------
    ScenarioError
        If the module cannot be imported or has no such class.
    """
    module_name, _, class_name = path.partition(":")
    module_name = NEW_PLACES.get(module_name, module_name)
    if not all(part.isidentifier() for part in [*module_name.split("."), class_name]):
        raise ScenarioError(f"{what}: names no class; write package.module:Class")
    with careful_import(what, module_name):
        module = importlib.import_module(module_name)
    loaded = getattr(module, class_name, None)
    if loaded is None:
        raise ScenarioError(f"{what}: {module_name!r} has no {class_name!r}{nearest(class_name, _classes(module))}")
    if not isinstance(loaded, type):
        raise ScenarioError(f"{what}: not a class")
    return loaded


def _classes(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, type) and not name.startswith("_")]


def find_entry(table: Mapping[str, Entry], name: str, what: str) -> Entry | None:
    """Return the entry called `name`, None for a ``package.module:Class``.

    Raises
    ------
    ScenarioError
        If there is none.
    """
    if ":" in name:
        return None
    if name not in table:
        raise ScenarioError(f"unknown {what} {name!r}{nearest(name, table)} (or package.module:Class)")
    return table[name]
