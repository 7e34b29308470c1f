"""The complete process of `kvsim run` on the Azure trace: reading, three simulations, pictures, page and Parquet.

It may keep Python's bytecode, as an installed kvsim has it: without, every process compiles 240 files, a tenth of it.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from kvsim.scenario.overrides import override_texts
from serving_parts.traffic import AZURE, BLOCK_TOKENS, BUDGET_TOKENS, MOST_TOKENS, SEQUENCES, Traffic


def run_command(traces: Path, traffic: Traffic) -> dict[str, Any]:
    """Return processor time and peak memory of one process, and how many steps it simulated in one of its runs."""
    changes = {
        "trace": {"path": str((traces / AZURE).resolve()), "format": "azure", "shared_tokens": 0, "drop_longer": True}
        | {"num_requests": traffic.num_rows},
        "arrivals": {"process": "trace"},
        "engine.max_model_len": MOST_TOKENS,
        "engine.max_num_batched_tokens": BUDGET_TOKENS,
        "engine.max_num_seqs": SEQUENCES,
        "engine.block_size": BLOCK_TOKENS,
        "engine.num_gpu_blocks_override": traffic.num_blocks,
        "sweep": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        options = [word for text in override_texts(changes) for word in ("--set", text)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "kvsim", "run", "serving", *options, "-o", folder, "--json"],
            capture_output=True,
            text=True,
            check=False,
            env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        files = sorted(path.name for path in Path(folder).rglob("*") if path.is_file())
    (cell,) = json.loads(done.stdout)["cells"]
    return {
        "requests": cell["num_requests"],
        "steps": cell["steps"],
        "cpu_s": (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime),
        "files": files,
    }
