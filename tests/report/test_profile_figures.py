"""The picture of a profile: curves over samples, residuals, and what is published or emulated is labelled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kvsim.profile.profile import load_profile
from kvsim.profile.tables import CostTable
from kvsim.report.profile_figures import profile_figure, residuals_frac
from kvsim.report.style import png
from kvsim.scenario.shipped import find_profile

PATH = Path(__file__).resolve().parents[2] / "profiles" / "h200-llama-3-8b-published.toml"


@pytest.fixture(scope="module")
def published():
    return load_profile(PATH)


@pytest.fixture(scope="module")
def measured(published):
    """The published profile with made-up samples around its attention and its copies."""
    generator = np.random.default_rng(3)

    def sampled(table: CostTable) -> CostTable:
        samples = tuple(
            (amount, column, table.point_s(amount, column) * generator.uniform(0.9, 1.1))
            for amount in table.amounts
            for column in table.columns
            for _ in range(4)
        )
        return table.model_copy(update={"samples": samples})

    attention = published.segments["attention"]
    segments = published.segments | {"attention": attention.model_copy(update={"device": sampled(attention.device)})}
    to_device = published.link.to_device
    copies = to_device.model_copy(update={"transfer": sampled(to_device.transfer)})
    link = published.link.model_copy(update={"to_device": copies, "emulated": True})
    return published.model_copy(update={"kind": "measured", "segments": segments, "link": link})


def titled(figure, title):
    (axis,) = [axis for axis in figure.axes if axis.get_title(loc="left") == title]
    return axis


def test_each_cost_has_a_panel_with_units_on_both_axes(published):
    figure = profile_figure(published)
    names = {axis.get_title(loc="left") for axis in figure.axes if axis.get_visible()}
    assert names == set(published.tables()) - {"policies.resident"}
    figure.canvas.draw()
    attention = titled(figure, "segments.attention")
    assert attention.get_xlabel() == "attended tokens"
    assert "100 us" in [label.get_text() for label in attention.get_yticklabels()]


def test_lines_run_through_the_table(published):
    axis = titled(profile_figure(published), "segments.attention")
    line = axis.lines[0]
    assert line.get_label() == "batch 1"
    drawn = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    table = published.segments["attention"].device
    assert [drawn[amount] for amount in table.amounts] == [row[0] for row in table.time_s]


def test_samples_are_dots_and_their_distance_is_boxed(measured):
    figure = profile_figure(measured)
    dots = titled(figure, "segments.attention").collections[0].get_offsets()
    samples = [row for row in measured.segments["attention"].device.samples if row[1] == 1]
    assert dots.tolist() == [[pytest.approx(amount), pytest.approx(time_s)] for amount, _, time_s in samples]
    figure.canvas.draw()
    labels = [label.get_text() for label in titled(figure, "sample against table").get_yticklabels()]
    assert labels == ["attention", "link.to_device"]


def test_residuals_are_relative_to_the_table(measured):
    residuals = residuals_frac(measured.segments["attention"].device)
    assert len(residuals) == 16 * 7 * 4
    assert -0.1 <= min(residuals) < -0.05 < 0.05 < max(residuals) <= 0.1


def test_a_published_profile_says_so_and_has_no_residuals(published, measured):
    figure = profile_figure(published)
    assert any("published figures, no samples" in text.get_text() for text in figure.texts)
    assert all(axis.get_title(loc="left") != "sample against table" for axis in figure.axes)
    assert any("emulated link" in text.get_text() for text in profile_figure(measured).texts)


def test_it_can_be_saved(measured):
    assert png(profile_figure(measured)).startswith(b"\x89PNG")


def test_the_profile_that_ships_is_drawn_whole():
    profile = load_profile(find_profile("cpu-smollm2-135m"))
    titles = {axis.get_title(loc="left") for axis in profile_figure(profile).axes}
    assert {"caches.rows.gather", "caches.restore.host", "caches.forward@1", "segments.attention"} <= {
        name if "." in name else f"segments.{name}" for name in titles
    }
