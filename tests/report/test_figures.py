"""The pictures of a run: what they draw is what the rows say, with units, spread and the label that costs deserve."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from kvsim.experiments.decode.report.figures import PARTS, figures_of, hit_figure, latency_figure, parts_figure
from kvsim.report.diagonal import Panel, diagonal_figure
from kvsim.report.results import RunResult
from kvsim.report.style import STYLE, png, policy_looks


def texts_of(figure):
    return [text.get_text() for text in figure.texts]


def counted(rows, number):
    return (rows["cell"] == number) & ~rows["is_warmup"]


def test_three_pictures_of_1200_pixels_come_out_of_a_run(run):
    summary, rows = run
    pictures = figures_of(RunResult(summary=summary, rows=rows, manifest={}))
    assert list(pictures) == ["latency.png", "step_parts.png", "hit_rate.png"]
    for content in pictures.values():
        height, width, _ = imread(io.BytesIO(content)).shape
        assert width == 1200
        assert 300 < height <= 1000


def test_a_picture_is_what_savefig_draws(run):
    figures = [latency_figure(*run) for _ in range(2)]
    saved = io.BytesIO()
    with rc_context(STYLE):
        figures[0].savefig(saved, format="png")
    assert (imread(io.BytesIO(saved.getvalue())) == imread(io.BytesIO(png(figures[1])))).all()


def title_of(axis):
    """Return what a panel is called; a long title has two lines."""
    return axis.get_title(loc="left").replace("\n", " ")


def boxes_of(figure):
    """Return where each visible text is, in pixels, once the picture is drawn."""
    png(figure)
    ticks = [
        (tick, *sorted(side.get_view_interval()))
        for axis in figure.axes
        for side in (axis.xaxis, axis.yaxis)
        for tick in (*side.get_major_ticks(), *side.get_minor_ticks())
    ]
    not_drawn = {id(tick.label1) for tick, low, high in ticks if not low <= tick.get_loc() <= high}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    texts = [text for text in texts if id(text) not in not_drawn]
    return {(number, text.get_text()): text.get_window_extent() for number, text in enumerate(texts)}


def test_no_text_runs_into_another_or_out_of_the_picture(run, make_run):
    named = tuple(f"lru(prefetch=previous-step,look_ahead={number})" for number in range(6))
    for summary, rows in (run, make_run(policies=named)):
        for figure in (latency_figure(summary, rows), parts_figure(summary, rows), hit_figure(summary, rows)):
            boxes = boxes_of(figure)
            for (one, first), (other, second) in itertools.combinations(boxes.items(), 2):
                assert not Bbox.intersection(first, second), f"{one[1]!r} on {other[1]!r}"
            assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes.values())


def test_every_panel_has_its_axes_labelled_with_units(run):
    summary, rows = run
    latency, parts, hits = latency_figure(*run), parts_figure(*run), hit_figure(summary, rows)
    assert {axis.get_xlabel() for axis in latency.axes[-3:]} == {"context, tokens"}
    assert {axis.get_ylabel() for axis in latency.axes[::3]} == {"ms a token"}
    assert {axis.get_xlabel() for axis in parts.axes[-3:]} == {"ms a step"}
    assert {axis.get_xlabel() for axis in hits.axes[-3:]} == {"budget, % of all pages"}
    assert hits.axes[0].get_ylabel().endswith("%")


def test_latency_has_a_line_and_a_band_a_policy_in_a_panel_for_each_context_and_budget(run):
    figure = latency_figure(*run)
    assert len(figure.axes) == 9
    for axis in figure.axes:
        assert len(axis.lines) == len(axis.collections) == 4
    assert title_of(figure.axes[0]) == "32,768 tokens of context, budget 10%"
    assert title_of(figure.axes[8]) == "131,072 tokens of context, budget 50%"


def test_latency_is_the_median_of_nine_counted_steps_in_ms(run):
    summary, rows = run
    line = latency_figure(summary, rows).axes[0].lines[2]
    assert summary["cells"][2]["policy"] == "lru"
    steps_s = rows["step_s"][counted(rows, 2)]
    tokens = rows["context_tokens"][counted(rows, 2)]
    assert list(line.get_xdata()) == list(tokens)
    assert line.get_ydata()[20] == pytest.approx(np.median(steps_s[16:25]) * 1e3)


def test_a_policy_many_times_slower_is_written_at_the_edge_and_the_others_stay_apart(run):
    summary, rows = run
    axis = latency_figure(summary, rows).axes[0]
    low, high = axis.get_ylim()
    assert low == 0
    assert high < 15
    (note,) = axis.texts
    assert note.get_text().startswith("\N{UPWARDS ARROW} stream ")
    written_ms = float(note.get_text().split()[2])
    assert written_ms == pytest.approx(np.median(rows["step_s"][counted(rows, 1)]) * 1e3, rel=0.02)


def test_policies_spread_evenly_over_decades_get_a_logarithmic_scale(run):
    summary, rows = run
    slowed = rows | {"step_s": 0.001 * 2.5 ** (rows["cell"] % 9)}
    axis = latency_figure(summary, slowed).axes[0]
    assert axis.get_yscale() == "log"
    assert not axis.texts


def test_the_parts_of_every_bar_add_up_to_the_step(run):
    summary, rows = run
    figure = parts_figure(summary, rows)
    panel = figure.axes[0]
    for place, number in enumerate((0, 2, 3)):
        bar_place = (0, 2, 3)[place]
        widths = [bar.get_width() for bar in panel.patches if round(bar.get_y() + bar.get_height() / 2) == bar_place]
        mean_ms = rows["step_s"][counted(rows, number)].mean() * 1e3
        assert sum(widths) == pytest.approx(mean_ms, rel=1e-9)
        assert float(panel.texts[bar_place].get_text()) == pytest.approx(mean_ms, rel=0.005)


def test_every_part_that_a_row_has_is_in_the_bars(run):
    from_rows = {name for name in run[1] if name.endswith("_s")} - {"step_s", "decide_s", "sync_s", "submit_s"}
    assert {name for columns, _, _ in PARTS.values() for name in columns} == from_rows


def test_a_bar_that_is_cut_carries_its_length(run):
    summary, rows = run
    panel = parts_figure(summary, rows).axes[0]
    label = panel.texts[1].get_text().strip()
    assert label.startswith("\N{RIGHTWARDS ARROW} ")
    assert float(label[2:]) == pytest.approx(rows["step_s"][counted(rows, 1)].mean() * 1e3, rel=0.005)
    ends = [bar.get_x() + bar.get_width() for bar in panel.patches]
    assert max(ends) < panel.get_xlim()[1]


def test_hit_rates_are_the_cells_and_their_whiskers_the_steps(run):
    summary, rows = run
    figure = hit_figure(summary, rows)
    assert len(figure.axes) == 3
    line = figure.axes[2].containers[1].lines[0]
    cells = [cell for cell in summary["cells"][24:] if cell["policy"] == "lru"]
    assert list(line.get_ydata()) == [pytest.approx(100 * cell["hit_frac"]) for cell in cells]
    assert list(line.get_xdata()) == [pytest.approx(x, rel=1e-3) for x in (10, 25, 50)]
    (whiskers,) = figure.axes[2].containers[1].lines[2]
    selected = counted(rows, 26)
    rates = rows["hits"][selected] / (rows["hits"] + rows["misses"])[selected]
    assert whiskers.get_segments()[0][:, 1] == pytest.approx(100 * np.percentile(rates, (10, 90)))


def test_high_hit_rates_are_looked_at_closely_and_low_ones_from_zero(run):
    summary, rows = run
    assert hit_figure(summary, rows).axes[0].get_ylim()[0] == 0
    always = rows | {"hits": rows["hits"] + rows["misses"] * 0.9, "misses": rows["misses"] * 0.1}
    assert hit_figure(summary, always).axes[0].get_ylim()[0] == 90


def test_equal_policies_can_both_be_seen(run):
    widths = [look["linewidth"] for look in policy_looks(cell["policy"] for cell in run[0]["cells"]).values()]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 4


def test_without_a_budget_there_is_no_picture_of_hits(make_run):
    summary, rows = make_run((32_768,), (0.1,), policies=("resident",))
    assert hit_figure(summary, rows) is None
    assert list(figures_of(RunResult(summary=summary, rows=rows, manifest={}))) == ["latency.png", "step_parts.png"]


def test_a_run_that_sweeps_nothing_has_one_panel_and_no_title(make_run):
    summary, rows = make_run((32_768,), (0.1,))
    summary = summary | {"swept": []}
    for figure in (latency_figure(summary, rows), parts_figure(summary, rows), hit_figure(summary, rows)):
        (axis,) = figure.axes
        assert axis.get_title(loc="left") == ""


def test_of_many_combinations_the_first_the_last_and_some_between_are_shown(make_run):
    contexts = tuple(range(4096, 4096 * 8, 4096))
    summary, rows = make_run(contexts, (0.1, 0.2, 0.3, 0.4, 0.5), policies=("lru",))
    figure = latency_figure(summary, rows)
    assert len(figure.axes) == 12
    assert title_of(figure.axes[0]) == "4,096 tokens of context, budget 10%"
    assert title_of(figure.axes[-1]) == "28,672 tokens of context, budget 50%"


@pytest.mark.parametrize(
    ("kind", "emulated", "label"),
    [
        ("published", False, "(published figures)"),
        ("measured", True, "(measured, emulated link)"),
        ("measured", False, "(measured)"),
    ],
)
def test_every_picture_says_whose_costs_it_shows(make_run, kind, emulated, label):
    summary, rows = make_run((32_768,), (0.1,), profile_kind=kind, emulated_link=emulated)
    for figure in (latency_figure(summary, rows), parts_figure(summary, rows), hit_figure(summary, rows)):
        assert any(label in text for text in texts_of(figure))


def test_a_policy_keeps_its_colour_whatever_else_is_drawn():
    alone, together = policy_looks(["lru"]), policy_looks(["mine", "lru", "yours", "resident"])
    assert alone["lru"]["color"] == together["lru"]["color"]
    assert len({to_rgb(look["color"]) for look in together.values()}) == 4
    assert len({look["marker"] for look in together.values()}) == 4


def test_eight_policies_have_eight_colours():
    names = ["lru", "one", "two", "attention", "three", "four", "predictive", "five"]
    assert len({to_rgb(look["color"]) for look in policy_looks(names).values()}) == len(names)


def test_a_comparison_of_many_policies_has_rows_of_four_panels():
    cells = [
        {"policy": f"policy-{number}", "tpot_simulated_s": 0.06 + number / 1000, "tpot_measured_s": 0.061}
        for number in range(7)
    ]
    panels = [Panel(title=cell["policy"], name="tpot_s", cells=[cell]) for cell in cells]
    figure = diagonal_figure("title", panels, color_by="policy")
    drawn = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in drawn] == [cell["policy"] for cell in cells]
    assert {axis.get_gridspec().ncols for axis in drawn} == {4}
    assert [axis.get_ylabel() for axis in drawn] == ["simulated", "", "", "", "simulated", "", ""]


DEFICIENCIES = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
}
"""What linear RGB becomes: Machado, Oliveira and Fernandes, TVCG 2009, severity 1."""


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_colour_blind_can_tell_policies_and_neighbouring_parts_apart(deficiency):
    def seen(colors):
        linear = np.array([to_rgb(color) for color in colors]) ** 2.2
        return np.clip(linear @ np.array(DEFICIENCIES[deficiency]).T, 0, 1) ** (1 / 2.2)

    policies = seen(look["color"] for look in policy_looks(["resident", "stream", "lru", "attention"]).values())
    between = np.linalg.norm(policies[:, None] - policies[None], axis=-1) + np.eye(4)
    assert between.min() > 0.15
    parts = seen(color for _, color, _ in PARTS.values())
    assert np.linalg.norm(np.diff(parts, axis=0), axis=-1).min() > 0.15


def test_drawing_needs_no_display_and_no_pyplot():
    imported = "from kvsim.experiments.decode.report import figures"
    code = f"import sys\n{imported}\nprint({{'matplotlib.pyplot', 'seaborn', 'tkinter'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
