"""The example of docs/engine.md runs as it is printed."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "engine.md"


def test_the_example_runs_and_its_report_says_that_pages_moved(capsys, monkeypatch, tmp_path):
    usage, turns = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    names: dict[str, object] = {}
    try:
        with torch.random.fork_rng():
            exec(compile(usage, str(PAGE), "exec"), names)
            report = names["report"]
            assert report.num_steps == names["answer"].shape[1] - 200 - 1 > 0
            exec(compile(turns, str(PAGE), "exec"), names)
    finally:
        torch.set_num_threads(threads)
    assert report.misses + report.prefetched > 0
    assert 0 < report.score_recall_frac < 1
    assert names["model"].config._attn_implementation == "sdpa"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("kvsim-to-")]
    printed = capsys.readouterr().out
    assert f"{report.num_steps} steps: " in printed
    both = names["cache"].report()
    assert both.prompt_tokens + both.num_steps == names["answer"].shape[1] - 1
    assert f"{both.prompt_tokens} tokens computed as prompts, {both.num_steps} decoded" in printed


def test_kvsim_itself_does_without_torch():
    code = "import sys, kvsim; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PAGE.parents[1], check=False).returncode == 0
