"""The table of docs/serving.md is that of the committed cross-check with vLLM."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bench" / "serving_targets.py"


def printed(folder: Path) -> list[str]:
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_page_shows_the_committed_run():
    lines = printed(ROOT / "results" / "serving_vllm_cpu" / "simulated")
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 10
    assert "\n".join(table) in (ROOT / "docs" / "serving.md").read_text()


def test_what_is_missed_is_bold_and_unequal_schedules_are_counted(tmp_path):
    committed = json.loads((ROOT / "results" / "serving_vllm_cpu" / "simulated" / "compare.json").read_text())
    changed = copy.deepcopy(committed)
    row = next(row for row in changed["figures"] if (row["figure"], row["cell"]) == ("itl_p50_s", 0))
    row |= {"error_frac": 0.25, "is_met": False, "simulated": 2 * max(row["runs"])}
    changed["schedules"][0]["difference"] = "step 3: free_blocks"
    (tmp_path / "compare.json").write_text(json.dumps(changed))
    lines = printed(tmp_path)
    assert next(line for line in lines if "ITL" in line).startswith("| ITL p50 within 4% | **+25.0%** |")
    assert next(line for line in lines if "schedules" in line).endswith("| **missed** | **missed** | **missed** |")
