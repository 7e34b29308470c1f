"""Attention of a decode step as calibrated, beside the public per-kernel table of aiconfigurator-core, as ratios."""

from __future__ import annotations

import csv
import io
import statistics
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from gpu_parts.jobs import LeftOutError, Outcome, Setting, write_text
from gpu_parts.profiles import SHAPE_NAMES, shape_path
from kvsim.profile.profile import Profile, load_profile

TABLE = "h200_sxm/attention/vllm"
FILE = "generation_attention_perf.parquet"
COLUMNS = (
    "kernel_source",
    "batch_size",
    "isl",
    "step",
    "num_heads",
    "num_key_value_heads",
    "head_dim",
    "attn_dtype",
    "kv_cache_dtype",
    "window_size",
    "latency",
)
BF16 = "bfloat16"


def compare_attention(setting: Setting) -> Outcome:
    """Write ``profiles/attention_table.csv``: a row for each point of the public table that a profile has measured.

    A profile's attention also gathers its pages and checks their tags; the table's kernel reads them where they lie.
    """
    if setting.attention_table is None:
        raise LeftOutError("no --attention-table; `pip download --no-deps aiconfigurator-core` fetches it")
    rows = read_table(setting.attention_table)
    found: list[dict[str, Any]] = []
    for name in SHAPE_NAMES:
        path = shape_path(setting, name)
        if path.is_file():
            found += [{"shape": name} | row for row in ratios(load_profile(path), rows)]
    if not found:
        raise LeftOutError("no point of the table has the heads of a profile within its measured range")
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(found[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    median = statistics.median(row["ratio"] for row in found)
    worst = max(found, key=lambda row: max(row["ratio"], 1 / row["ratio"]))
    headline = (
        f"{len(found)} points, ours takes {median:.2f} times the table's in the median, {worst['ratio']:.2f} at worst "
        f"({worst['shape']}, {worst['context_tokens']} tokens x {worst['batch']})"
    )
    return Outcome(
        headline=headline, files=[write_text(setting.folder("profiles") / "attention_table.csv", text.getvalue())]
    )


def ratios(profile: Profile, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the points of the table that match a profile, with both times and ours over theirs.

    A point matches where query heads, KV heads and the head's size are the shape's, keys and queries are bf16 and no
    window is cut; where kernels differ the fastest counts. Its context is ``isl + step`` tokens a sequence; only
    points within the tokens and batches that were measured are compared, ours interpolated between them.
    """
    table, shape = profile.segments["attention"].device, profile.shape
    wanted = (shape.num_heads, shape.num_kv_heads, shape.head_dim)
    best: dict[tuple[int, int], float] = {}
    for row in rows:
        heads = (row["num_heads"], row["num_key_value_heads"], row["head_dim"])
        if heads != wanted or row["window_size"] or {row["attn_dtype"], row["kv_cache_dtype"]} != {BF16}:
            continue
        point = int(row["batch_size"]), int(row["isl"] + row["step"])
        latency_s = row["latency"] * 1e-3  # the table gives ms
        best[point] = min(latency_s, best.get(point, latency_s))
    found = []
    for (batch, context), latency_s in sorted(best.items()):
        if table.covers(batch * context, sequences=batch):
            ours_s = table.at_s(batch * context, sequences=batch)
            found.append(
                {"batch": batch, "context_tokens": context, "ours_s": ours_s, "table_s": latency_s}
                | {"ratio": ours_s / latency_s}
            )
    return found


def read_table(place: Path) -> list[dict[str, Any]]:
    """Return the rows of the newest table in a wheel, a folder or a Parquet file; only the columns that matter."""
    if place.is_dir():
        files = sorted(path for path in place.rglob(FILE) if TABLE in path.as_posix())
        if not files:
            raise FileNotFoundError(f"{place}: no {TABLE}/*/{FILE} below it")
        source: Any = files[-1]
    elif place.suffix == ".whl":
        with zipfile.ZipFile(place) as archive:
            names = sorted(name for name in archive.namelist() if TABLE in name and name.endswith(FILE))
            if not names:
                raise FileNotFoundError(f"{place}: no {TABLE}/*/{FILE} in it")
            source = io.BytesIO(archive.read(names[-1]))
    else:
        source = place
    rows: list[dict[str, Any]] = pq.read_table(source, columns=list(COLUMNS)).to_pylist()
    return rows
