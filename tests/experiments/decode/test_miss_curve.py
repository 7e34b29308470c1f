"""kvsim mrc: what it takes for accesses, and that its curve is LRU's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kvsim.caches import miss_curve, replay
from kvsim.cli import run_command
from kvsim.errors import KvsimError, ScenarioError, TraceError
from kvsim.experiments.decode.miss_curve import curve_of, page_accesses, parse_settings
from kvsim.report.mrc import mrc_figure, mrc_text
from kvsim.report.style import png
from kvsim.scenario.shipped import find_capture
from kvsim.traces.access.file import open_trace


def test_the_curve_of_a_capture_is_lru_on_its_pages() -> None:
    path = find_capture("smollm2-docs")
    settings = parse_settings(["page_tokens=64", "selector.k_pages=4"])
    curve, keys = curve_of(path, settings)
    accesses = page_accesses(open_trace(path), 64, settings.selector)
    assert "64 tokens" in keys and "best 4" in keys
    for capacity in (1, 100, 240, curve.num_keys // 2, curve.num_keys):
        assert curve.misses[capacity] == replay(accesses, capacity, "lru").misses


def test_a_page_is_read_once_a_decision_and_belongs_to_its_layer() -> None:
    trace = open_trace(find_capture("smollm2-docs"))
    accesses = page_accesses(trace, 64, parse_settings([]).selector)
    per_decision = accesses.reshape(trace.num_steps * trace.num_layers, -1)  # k + sinks + recent + open
    assert per_decision.shape[1] == 8 + 1 + 2 + 1
    assert (np.diff(per_decision, axis=1) > 0).all()
    pages_per_layer = per_decision[:30].max(axis=1)
    assert (np.diff(pages_per_layer) > 0).all()


def test_keys_may_come_as_text_or_array(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [3, 1, 3, 2, 1, 3]
    (tmp_path / "keys.txt").write_text("".join(f"{key}\n" for key in keys))
    np.save(tmp_path / "keys.npy", np.array(keys))
    found = []
    for name in ("keys.txt", "keys.npy"):
        assert run_command(["mrc", str(tmp_path / name), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert (
        found[0]["curve"]
        == found[1]["curve"]
        == {
            "budget": [1, 2, 3],
            "misses": [6, 5, 3],
            "miss_frac": [1.0, 5 / 6, 0.5],
        }
    )


def test_blocks_of_a_request_trace_are_keys(tmp_path: Path) -> None:
    row = {"timestamp": 0, "input_length": 600, "output_length": 1}
    rows = [{**row, "hash_ids": [1, 2]}, {**row, "hash_ids": [1, 3]}]
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps(found) + "\n" for found in rows))
    curve, keys = curve_of(path, parse_settings([]))
    assert keys == "blocks of 512 tokens"
    assert curve.misses.tolist() == [4, 4, 3, 3]


def test_the_table_marks_the_knee_and_a_picture_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "loop.npy", np.concatenate((np.tile(np.arange(20), 30), np.arange(100, 180))))
    assert run_command(["mrc", str(tmp_path / "loop.npy"), "-o", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    (knee,) = [line.split() for line in text.splitlines() if "<- knee" in line]
    assert knee[:4] == ["20", "20.0%", "100", "0.1471"]
    assert (tmp_path / "mrc-loop.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("keys.txt", b"", "no keys in it"),
        ("keys.npy", b"junk", "not an array that numpy reads"),
        ("keys.csv", b"1\n", "it takes .kvtrace"),
        ("gone.txt", None, "No such file"),
    ],
)
def test_a_file_that_is_none_is_told(name: str, content: bytes | None, what: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TraceError, match=what):
        curve_of(tmp_path / name, parse_settings([]))


def test_floats_are_no_keys(tmp_path: Path) -> None:
    np.save(tmp_path / "keys.npy", np.ones(3))
    with pytest.raises(KvsimError, match="flat array of integer keys, found float64"):
        curve_of(tmp_path / "keys.npy", parse_settings([]))


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("page_tokns=16", "page_tokens"),
        ("selector.kpages=3", "k_pages"),
        ("page_tokens", "write KEY=VALUE, as in --set selector.k_pages=16"),
        ("page_tokens.x=1", "no table"),
        ("page_tokens=0", "page_tokens"),
    ],
)
def test_a_wrong_setting_names_what_would_be_right(override: str, what: str) -> None:
    with pytest.raises(ScenarioError, match=what):
        parse_settings([override])


def test_one_key_alone_can_be_drawn() -> None:
    curve = miss_curve([7])
    assert "1 accesses of 1 keys" in mrc_text(curve, [1], "keys")
    assert png(mrc_figure(curve, "one", "keys")).startswith(b"\x89PNG")
