"""Every job of the reference measurement, in order of worth within its part."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

from gpu_parts.jobs import Job, Outcome, Setting

PARTS = ("profiles", "engine", "crosscheck", "captures", "seeds")

Run = Callable[[Setting], Outcome]


def jobs_of(*, is_small: bool) -> list[Job]:
    """Return the jobs; torch is loaded only where one runs."""
    times = SMALL_TIMES if is_small else TIMES
    return [
        Job(name="machine/manifest", limit_s=60, run=_later("machine:write_manifest")),
        Job(name="profiles/trained", limit_s=300, run=_later("profiles:profile_trained")),
        Job(name="profiles/link", limit_s=60, run=_later("links:measure_link")),
        Job(name="profiles/llama-3-8b", limit_s=120, run=_later("profiles:profile_shape", "llama-3-8b")),
        Job(name="profiles/llama-3.2-1b", limit_s=120, run=_later("profiles:profile_shape", "llama-3.2-1b")),
        Job(name="profiles/gemma-2-9b", limit_s=120, run=_later("profiles:profile_shape", "gemma-2-9b")),
        Job(name="profiles/attention", limit_s=60, run=_later("attention_table:compare_attention"), is_cheap=True),
        Job(name="engine/exact-bf16", limit_s=240, run=_later("exactness:check_exactness", "bf16")),
        Job(name="engine/exact-fp32", limit_s=120, run=_later("exactness:check_exactness", "fp32")),
        *(
            Job(
                name=f"engine/times-{context}x{batch}",
                limit_s=limit_s,
                run=_later("step_times:time_steps", context, batch),
            )
            for context, batch, limit_s in times
        ),
        Job(name="engine/tests", limit_s=120, run=_later("marked_tests:run_marked")),
        Job(name="engine/profiler", limit_s=90, run=_later("host_profile:profile_host", times[0][0])),
        Job(name="engine/targets", limit_s=60, run=_later("targets:judge"), is_cheap=True),
        Job(name="crosscheck/slowed-profile", limit_s=90, run=_later("profiles:slowed_profile")),
        Job(name="crosscheck/slowed", limit_s=420, run=_later("commands:crosscheck_slowed")),
        Job(name="crosscheck/as-it-is", limit_s=240, run=_later("commands:crosscheck_as_it_is")),
        Job(name="captures/docs-8k", limit_s=120, run=_later("commands:capture", "python-docs")),
        Job(name="captures/code-8k", limit_s=120, run=_later("commands:capture", "python-code")),
        *(
            Job(name=f"seeds/{scenario}", limit_s=240, run=_later("commands:seed", scenario))
            for scenario in ("kv_on_off", "kv_prefetch", "prompt_cache", "embedding_cache", "prompt_modules")
        ),
    ]


TIMES = ((32_768, 1, 150.0), (8192, 1, 90.0), (131_072, 1, 200.0), (8192, 8, 120.0), (32_768, 8, 200.0))
"""Tokens of context, sequences and limit of each job that times steps."""

SMALL_TIMES = ((512, 1, 60.0), (512, 2, 60.0))


def _later(place: str, *arguments: Any) -> Run:
    """Return what imports a job's module when it runs."""
    module, _, name = place.partition(":")

    def run(setting: Setting) -> Outcome:
        found = getattr(import_module(f"gpu_parts.{module}"), name)
        return cast("Run", found(*arguments) if arguments else found)(setting)

    return run
