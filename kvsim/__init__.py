"""kvsim: what a KV cache that does not fit costs, simulated and measured with the same policies.

Importing it is cheap: each name below loads its room when it is first asked for. docs/api.md shows how to use them.
"""

import importlib
from typing import Any

__version__ = "0.2.0"

_PLACES = {
    "Cache": "kvsim.caches.cache",
    "Comparison": "kvsim.experiments.result",
    "KvsimError": "kvsim.errors",
    "PagedCache": "kvsim.engine.paged.paged_cache",
    "Profile": "kvsim.profile.profile",
    "PromptCache": "kvsim.experiments.prompt_cache.engine.cache",
    "Result": "kvsim.experiments.result",
    "Scenario": "kvsim.scenario.decode",
    "Trace": "kvsim.traces.access.arrays",
    "cached_embedding": "kvsim.experiments.embedding_rows.engine.cache",
    "calibrate": "kvsim.experiments.calibrate",
    "compare": "kvsim.experiments.library",
    "generate_with_prompt_cache": "kvsim.experiments.prompt_cache.engine.cache",
    "load_profile": "kvsim.experiments.library",
    "load_result": "kvsim.experiments.result",
    "load_scenario": "kvsim.experiments.library",
    "measure": "kvsim.experiments.library",
    "miss_curve": "kvsim.caches.curve",
    "plan": "kvsim.experiments.plan.library",
    "run": "kvsim.experiments.library",
    "write_profile": "kvsim.profile.profile",
}
"""Where each public name is; their types are in ``__init__.pyi``."""

__all__ = ["__version__", *_PLACES]

__path__ = [*__path__, f"{__path__[0]}/_moved"]  # modules under the names that they had before 0.2


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
