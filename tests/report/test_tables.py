"""The printed table: every figure once, aligned, within 120 columns, the same in a pipe."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from kvsim.experiments.decode.report.table import (
    COLUMNS,
    LEGEND,
    first_columns,
    shown_columns,
    text_table,
    verdict_text,
)
from kvsim.report.frames import cells_frame
from kvsim.report.tables import Column, aligned, header_text, percent, shown_as, signed_percent, table_text


def printed(summary, cell):
    """Return the texts of a cell's row by title, of the columns that some cell has."""
    columns = {
        name: column for name, column in shown_columns(summary).items() if any(name in c for c in summary["cells"])
    }
    return {column.title: shown_as(column, cell.get(name)) for name, column in columns.items()}


def test_four_policies_and_nine_cells_fit_120_columns_one_line_each(run):
    summary, _ = run
    lines = text_table(summary).splitlines()
    assert max(map(len, lines)) <= 120
    starts = tuple(f"{name} " for name in ("resident", "stream", "lru", "attention"))
    assert sum(line.startswith(starts) for line in lines) == 36
    assert text_table(summary).isascii()


def test_columns_line_up_and_combinations_stand_together(run):
    lines = text_table(run[0]).splitlines()
    rule = next(line for line in lines if line.startswith("---"))
    ends = [match.end() for match in re.finditer("-+", rule)]
    body = lines[lines.index(rule) + 1 : lines.index(rule) + 45]
    rows = [line for line in body if line]
    assert len(body) - len(rows) == 8
    for row in rows:
        assert all(len(row) == end or row[end] == " " for end in ends if end <= len(row))
        assert all(row[end - 1] != " " for end in ends[1:])


def test_a_printed_row_says_what_its_cell_says(run):
    summary, _ = run
    cell = summary["cells"][3]
    cell_text = list(printed(summary, cell).values())
    assert " ".join(cell_text) in re.sub(" +", " ", text_table(summary))
    assert cell_text[:3] == ["attention", "32768", "0.1"]
    assert float(cell_text[4]) == pytest.approx(cell["tpot_p50_s"] * 1e3, rel=0.005)
    assert float(cell_text[7].removesuffix("x")) == pytest.approx(cell["speed_vs_resident"], abs=0.006)
    assert float(cell_text[9].removesuffix("%")) == pytest.approx(100 * cell["hit_frac"], abs=0.06)
    assert float(cell_text[12]) == pytest.approx(cell["moved_bytes_per_token"] / 2**20, rel=0.005)
    assert float(cell_text[13]) == pytest.approx(cell["device_bytes"] / 2**30, rel=0.005)


def test_what_does_not_apply_is_a_dash_and_what_does_not_fit_stands_out(run):
    summary, _ = run
    rows = [printed(summary, cell) for cell in summary["cells"]]
    resident = [row for row in rows if row["/policy"] == "resident"]
    assert {row[title] for row in resident for title in ("budget/pages", "/hits", "pref./prec.")} == {"-"}
    assert {row["/fits"] for row in resident} == {"yes", "NO"}
    assert not any("nan" in text or "None" in text for row in rows for text in row.values())
    lru = [row for row in rows if row["/policy"] == "lru"]
    assert {row[title] for row in lru for title in ("pref./prec.", "pref./recall")} == {"-"}  # nothing came early


def test_the_frame_keeps_every_figure_and_puts_what_varies_first(run):
    summary, _ = run
    frame = cells_frame(summary, first_columns(summary))
    assert list(frame.columns[:3]) == ["policy", *summary["swept"]]
    assert set(frame.columns) == set(summary["cells"][0])
    assert len(frame) == 36
    assert isinstance(frame, pd.DataFrame)


def test_the_caption_labels_published_figures_and_emulated_links(make_run):
    published = text_table(make_run((32_768,), (0.1,))[0])
    emulated = text_table(make_run((32_768,), (0.1,), profile_kind="measured", emulated_link=True)[0])
    assert "(published figures)" in published
    assert "(measured, emulated link)" in emulated.replace("\n", " ")


def test_what_is_not_swept_stands_in_the_caption_and_not_in_a_column(make_run):
    summary, _ = make_run((32_768,), (0.1,))
    summary = summary | {"swept": []}
    caption, table = text_table(summary).split("\n\n", 1)
    assert "32,839 tokens; batch 1; 32-token pages" in caption.replace("\n", " ")
    assert "context" not in table


def test_swept_fields_of_one_last_name_keep_their_whole_name(run):
    summary = run[0] | {"swept": ["a.size", "b.size"]}
    summary["cells"] = [cell | {"a.size": 1, "b.size": 2} for cell in summary["cells"]]
    assert {"/a.size", "/b.size"} <= set(printed(summary, summary["cells"][0]))


def test_a_result_without_a_figure_leaves_its_column_out(run):
    summary = run[0] | {"cells": [{"policy": "lru", "tpot_p50_s": 0.0123, "hit_frac": None}]}
    summary["swept"] = []
    assert printed(summary, summary["cells"][0]) == {"/policy": "lru", "TPOT ms/p50": "12.3", "/hits": "-"}
    lines = ["        TPOT ms", "policy      p50  hits", "------  -------  ----", "lru        12.3     -"]
    assert text_table(summary).splitlines()[2:6] == lines


def test_every_printed_figure_is_explained_or_plain():
    """Whoever adds a column explains it in the legend, or decides here that its title says it all."""
    plain = {"budget/pages", "tokens/per s", "speed/vs res.", "moved/MiB/tok", "device/GiB", "/fits"}
    titles = {column.title for column in COLUMNS.values()}
    assert plain <= titles
    for title in titles - plain:
        upper, lower = title.split("/", 1)
        assert any(f"{words}:" in LEGEND for words in (f"{upper} {lower}".strip(), upper.split(" ")[0], lower)), title


def test_the_verdict_is_printed_in_lines_that_fit(run):
    text = verdict_text(run[0])
    assert max(map(len, text.splitlines())) <= 120
    assert [paragraph.replace("\n", " ") for paragraph in text.split("\n\n")] == run[0]["verdict"]


def test_a_table_has_headings_and_gaps_and_narrows_where_it_must():
    rows = [["name", "size"], ["only these:"], ["a", "10"], [], ["long name", "7"]]
    assert aligned(rows) == [
        "name       size",
        "---------  ----",
        "only these:",
        "a            10",
        "",
        "long name     7",
    ]
    assert aligned(rows, rule=False, left=(0, 1))[0] == "name       size"
    assert aligned(rows, width=14)[1] == "--------- ----"
    assert aligned(rows, width=15)[1] == "---------  ----"


def test_every_kind_of_nothing_is_a_dash():
    assert [percent(nothing) for nothing in (None, float("nan"))] == ["-", "-"]
    cells = [{"a": None, "b": float("nan")}, {"a": 0, "b": 0.0}]
    text = table_text(cells, {"a": Column(title="/a"), "b": Column(title="/b", text=percent), "c": Column(title="/c")})
    assert [line.split() for line in text.splitlines()] == [[], ["a", "b"], ["-", "----"], ["-", "-"], ["0", "0.0%"]]


def test_a_share_below_half_a_digit_has_no_sign_of_its_own():
    assert (percent(-1e-9), signed_percent(-1e-9), signed_percent(-0.5, 0)) == ("0.0%", "+0.0%", "-50%")


def test_the_header_says_whose_costs_or_that_it_was_measured():
    profile = {"name": "p", "kind": "published"}
    assert header_text({"scenario": "s", "profile": profile}, "emulated link") == (
        "s: costs of p (published figures, emulated link)"
    )
    assert header_text({"scenario": "s", "profile": profile, "is_measured": True}) == "s: measured"
