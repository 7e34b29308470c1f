"""A few steps of one choice under torch's profiler: which operations keep the host, and how busy the device is."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

from gpu_parts.jobs import Outcome, Setting, write_json, write_text
from gpu_parts.step_times import MOST_TOKENS
from gpu_parts.workload import (
    Choice,
    bandwidth_of,
    budgets_of,
    fed_tokens,
    input_for,
    k_for,
    mechanism_of,
    model_of,
    snapshot_of,
)
from kvsim.engine.paged.decode import decode

WARMUP_STEPS, SEEN_STEPS = 4, 4


def profile_host(context_tokens: int) -> Callable[[Setting], Outcome]:
    """Return what profiles `attention` at a quarter of the pages, batch 1."""

    def run(setting: Setting) -> Outcome:
        most_tokens = 0 if setting.is_small else MOST_TOKENS
        num_steps = WARMUP_STEPS + SEEN_STEPS
        snapshot = snapshot_of(setting, context_tokens, 1, num_steps, most_tokens)
        budget_frac = budgets_of(setting)[0]
        choice = Choice(policy="attention", budget_frac=budget_frac, k_pages=k_for(context_tokens, budget_frac))
        is_cuda = setting.device == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
        profiler = profile(activities=activities)
        done = 0

        def after_step(steps: int) -> None:
            nonlocal done
            done += steps
            if done == WARMUP_STEPS:
                profiler.start()
            elif done == num_steps:
                profiler.stop()

        result = decode(
            model_of(setting),
            snapshot,
            input_for(snapshot, choice, num_steps),
            bandwidth_bytes_per_s=bandwidth_of(setting),
            forced_tokens=fed_tokens(1, num_steps),
            mechanism=mechanism_of(setting),
            progress=after_step,
        )
        averages = profiler.key_averages()
        step_s = float(result.step_s[WARMUP_STEPS:].mean())
        device_s = sum(float(event.self_device_time_total) for event in averages) * 1e-6 / SEEN_STEPS  # in us
        launches = sum(event.count for event in averages if event.key == "cudaLaunchKernel") / SEEN_STEPS
        found = {
            "choice": choice.label,
            "context_tokens": context_tokens,
            "step_s": step_s,
            "device_s": device_s if is_cuda else None,
            "launches": launches if is_cuda else None,
        }
        folder = setting.folder("engine")
        trace = folder / "profiler.trace.json.gz"
        profiler.export_chrome_trace(str(trace))
        files = [
            write_json(folder / "profiler.json", found),
            write_text(folder / "profiler.txt", averages.table(sort_by="self_cpu_time_total", row_limit=30)),
            trace,
        ]
        headline = f"{choice.label}: {1e3 * step_s:.2f} ms a step under the profiler"
        if is_cuda:
            headline += f", device at work {1e3 * device_s:.2f} ms of it (kernels and copies), {launches:.0f} launches"
        return Outcome(headline=headline, files=files)

    return run
