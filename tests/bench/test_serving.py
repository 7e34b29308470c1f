"""The benchmark of the serving loop runs on small files in the layouts of the public traces."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.scripts import load_script


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load_script("bench/serving.py")


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    lines += [f"2023-11-16 18:15:{second:02d}.6805900,{100 + 37 * second},{1 + second}" for second in range(40)]
    lines.append("2023-11-16 18:16:00.6805900,5000,1")
    (tmp_path / "azure-2023").mkdir()
    with gzip.open(tmp_path / "azure-2023" / "AzureLLMInferenceTrace_conv.csv.gz", "wt") as file:
        file.write("\n".join(lines))
    rows = [
        {"timestamp": 500 * turn, "input_length": 700 + turn, "output_length": 20, "hash_ids": [0, 1 + turn]}
        for turn in range(30)
    ]
    (tmp_path / "mooncake").mkdir()
    with gzip.open(tmp_path / "mooncake" / "conversation_trace.jsonl.gz", "wt") as file:
        file.write("\n".join(json.dumps(row) for row in rows))
    return tmp_path


def test_both_cores_take_the_same_steps_and_shared_prefixes_are_not_computed_again(
    bench: ModuleType, traces: Path
) -> None:
    rows = bench.run(traces, 1)["rows"]
    assert [(row["trace"], row["what"]) for row in rows if "sched-sim" not in row["what"]] == [
        ("azure-conversation", "compiled"),
        ("azure-conversation", "plain"),
        ("azure-conversation", "kvsim run"),
        ("mooncake-conversation", "compiled"),
    ]
    same = ("requests", "steps", "tokens", "simulated_s")
    assert [rows[0][name] for name in same] == [rows[1][name] for name in same]
    assert {row["requests"] for row in rows[:-1]} == {40}
    assert rows[0]["tokens"] == sum(100 + 37 * second + second for second in range(40))
    assert rows[-1]["tokens"] == sum(700 + turn + 19 for turn in range(30)) - 29 * 512
    assert {"report.html", "rows.parquet", "serving_cdf.png", "summary.json"} <= set(rows[-2]["files"])
    assert len(bench.table_text(rows).splitlines()) == 1 + len(rows)


def test_the_peer_serves_the_same_requests(bench: ModuleType, traces: Path) -> None:
    pytest.importorskip("sched_sim")
    traffic = bench.read_azure(traces / bench.AZURE, 1000)
    ((_, make),) = bench.make_peers().items()
    steps, tokens, simulated_s = make(traffic)()
    assert tokens == int(traffic.requests.stop_tokens.sum())  # it computes the last token, too
    assert 0 < steps <= tokens and simulated_s > traffic.arrival_s[-1]


def test_the_process_may_keep_bytecode_whatever_the_environment_says(
    bench: ModuleType, traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    environments = []
    run = subprocess.run

    def watched(*arguments: Any, **options: Any) -> Any:
        environments.append(options["env"])
        return run(*arguments, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    assert bench.run_command(traces, bench.read_azure(traces / bench.AZURE, 40))["requests"] == 40
    assert "PYTHONDONTWRITEBYTECODE" not in environments[0] and "PATH" in environments[0]
