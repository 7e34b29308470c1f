"""A sweep over what decides what is read: every cell is measured with its own text and number of steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from kvsim.scenario.decode import load_scenario
from tests.experiments.decode.measured import agreed, measure, scenario_file  # noqa: F401


def test_cells_of_a_swept_text_and_number_of_steps_are_measured_on_their_own(
    scenario_file: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Each is what it is alone; a bench or a context made for one text or length must not serve another."""
    letters = np.random.default_rng(1).choice(list("etaoin shrdlu"), size=600)
    other = tmp_path / "other.txt"
    other.write_text("".join(letters))
    common = ["sweep={}", "budget.context_frac=0.35", "run.policies=lru"]
    swept = (f"measure.text=['text.txt', '{other}']", "measure.num_steps=[6, 10]")
    together = agreed(scenario_file, tmp_path, *common, *swept)
    assert len(together.traces) == 4
    misses = []
    for number, cell in enumerate(together.result.summary["cells"]):
        rows = together.result.rows
        mine = (rows["cell"] == number) & ~rows["is_stamped"] & (rows["repetition"] == 0)
        alone = load_scenario(
            scenario_file,
            [*common, f"measure.text={cell['measure.text']}", f"measure.num_steps={cell['measure.num_steps']}"],
        )
        expected = measure(alone, scenario_file).result.rows
        first = ~expected["is_stamped"] & (expected["repetition"] == 0)
        np.testing.assert_array_equal(rows["digest"][mine], expected["digest"][first])
        misses.append(tuple(rows["misses"][mine][:6]))
    assert misses[0] == misses[1] and misses[2] == misses[3] and misses[0] != misses[2]
