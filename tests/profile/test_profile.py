"""A profile survives its file unchanged, and a cost between measured points lies between their costs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import CalibrationError
from kvsim.profile.profile import SEGMENTS, Link, LinkCost, Machine, Profile, SegmentCost, load_profile, write_profile
from kvsim.profile.tables import CostTable
from kvsim.scenario.shapes import SHAPES


def constant(time_s: float, source: str = "") -> CostTable:
    return CostTable(amount="none", amounts=(0.0,), time_s=((time_s,),), source=source)


def profile(**changes: Any) -> Profile:
    copy = CostTable(
        amount="pieces",
        amounts=(1.0, 8.0),
        columns_are="piece_bytes",
        columns=(4096.0, 65536.0),
        time_s=((1e-6, 2e-6), (5e-6, 1 / 3e5)),
        residual_low_frac=-0.04,
        residual_high_frac=0.1,
        num_samples=2,
        samples=((1.0, 4096.0, 1.1e-6), (1.0, 4096.0, 0.9e-6)),
    )
    link = LinkCost(transfer=copy, submit_s=1e-6, mechanism="emulated")
    values = {
        "schema_version": 2,
        "name": "test",
        "kind": "exact",
        "device": "cpu",
        "synchronous": True,
        "runtime": "eager",
        "device_memory_bytes": 2**30,
        "page_tokens": (32,),
        "shape": SHAPES["smollm2-135m"],
        "machine": Machine(
            host="h", processor="p", device="cpu", num_threads=1, os="o", python="3", versions={}, date="d", command="c"
        ),
        "segments": {name: SegmentCost(device=constant(0.1 + 0.2)) for name in SEGMENTS},
        "sync_s": 0.0,
        "policies": {"lru": constant(2e-6), "*": constant(9e-6)},
        "link": Link(emulated=True, issue="worker", to_device=link, to_host=link),
    }
    return Profile.model_validate(values | changes)


def test_a_profile_is_read_back_as_it_was_written_to_the_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "p.toml"
    write_profile(profile(), path)
    assert load_profile(path) == profile()
    assert [entry.name for entry in path.parent.iterdir()] == ["p.toml"]


def test_a_profile_that_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.mkdir()
    with pytest.raises(CalibrationError, match="cannot write the profile: Is a directory"):
        write_profile(profile(), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_another_schema_version_is_refused_before_anything_else(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text("schema_version = 3\nnonsense = 1\n")
    with pytest.raises(CalibrationError, match=r"p\.toml: schema_version 3, this kvsim reads 2; calibrate again$"):
        load_profile(path)


@pytest.mark.parametrize(
    ("line", "changed", "fault"),
    [
        ("sync_s = 0.0", "sync = 0.0", "unknown key 'sync'; did you mean 'sync_s'?"),
        (
            'kind = "exact"',
            'kind = "guessed"',
            "kind: should be 'measured', 'published', 'estimated' or 'exact', found 'guessed'",
        ),
        ("sync_s = 0.0", "sync_s = inf", "sync_s: should be a finite number, found inf"),
    ],
)
def test_a_fault_in_a_profile_is_told_by_key(tmp_path: Path, line: str, changed: str, fault: str) -> None:
    path = tmp_path / "p.toml"
    write_profile(profile(), path)
    text = path.read_text()
    assert text.count(line) == 1
    path.write_text(text.replace(line, changed))
    with pytest.raises(CalibrationError) as caught:
        load_profile(path)
    assert f"{path}: {fault}" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"segments": {name.replace("head", "heads"): SegmentCost(device=constant(1)) for name in SEGMENTS}},
            r"missing \['head'\], unknown \['heads'\]",
        ),
        ({"kind": "published"}, "must give the source of every table"),
        (
            {"prefill": profile().link.to_device.transfer.model_copy(update={"columns_are": "sequences"})},
            "columns_are of prefill should be 'cached_tokens', found 'sequences'",
        ),
    ],
)
def test_a_profile_that_is_not_whole_is_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        profile(**changes)


def test_every_table_is_listed_by_a_dotted_name() -> None:
    names = set(profile(prefill=constant(1)).tables())
    segments = {f"segments.{name}" for name in SEGMENTS}
    assert names == segments | {"policies.lru", "policies.*", "link.to_device", "link.to_host", "prefill"}


def test_a_policy_without_a_cost_of_its_own_has_the_cost_of_any_other() -> None:
    assert profile().decide_s("lru", 4, 100) == 2e-6
    assert profile().decide_s("mine", 4, 100) == 9e-6
    with pytest.raises(CalibrationError, match=r"no cost of policy 'mine'.*kvsim policy time mine"):
        profile(policies={}).decide_s("mine", 4, 100)


def test_where_no_table_is_for_any_other_a_policy_never_timed_costs_what_its_like_costs_and_that_is_told() -> None:
    known = profile(policies={"lru": constant(2e-6), "attention": constant(5e-6)})
    assert known.stands_in("lru") is None
    assert (known.decide_s("sieve", 4, 100), known.stands_in("sieve")) == (2e-6, "lru")
    for dearer in ("lru+learned", "package.module:Class"):
        assert (known.decide_s(dearer, 4, 100), known.stands_in(dearer)) == (5e-6, "attention")
    assert profile().stands_in("mine") is None


def test_no_pieces_take_no_time() -> None:
    assert profile().link.to_device.transfer_s(0, 65536) == 0.0
    assert profile().link.to_device.transfer_s(1, 65536) == 2e-6


@pytest.mark.parametrize(
    ("amounts", "columns", "time_s"),
    [((1.0, 1.0), (1.0,), ((1.0,), (1.0,))), ((), (1.0,), ()), ((1.0,), (1.0,), ((1.0, 2.0),)), ((2.0,), (1.0,), ())],
)
def test_a_table_that_is_no_grid_is_refused(amounts: Any, columns: Any, time_s: Any) -> None:
    with pytest.raises(ValueError, match=r"must have a row for each|must not be empty and must increase"):
        CostTable(amount="pages", amounts=amounts, columns_are="sequences", columns=columns, time_s=time_s)


def increasing(min_size: int) -> st.SearchStrategy[list[float]]:
    return st.lists(st.integers(0, 1000), min_size=min_size, max_size=5, unique=True).map(
        lambda numbers: sorted(map(float, numbers))
    )


@st.composite
def tables(draw: st.DrawFn, *, is_monotone: bool = False) -> CostTable:
    amounts, columns = draw(increasing(1)), draw(increasing(1))
    cost = st.floats(0, 1, allow_subnormal=False)
    rows = [[draw(cost) for _ in columns] for _ in amounts]
    if is_monotone:
        for i in range(len(amounts)):
            for j in range(len(columns)):
                rows[i][j] += max(rows[i - 1][j] if i else 0, rows[i][j - 1] if j else 0)
    grid = {"amounts": tuple(amounts), "columns": tuple(columns), "time_s": tuple(map(tuple, rows))}
    return CostTable(amount="pages", columns_are="sequences", **grid)


AMOUNTS = st.floats(0, 2000, allow_subnormal=False)


@given(tables())
def test_measured_points_are_given_back_exactly(table: CostTable) -> None:
    for amount, row in zip(table.amounts, table.time_s, strict=True):
        for batch, time_s in zip(table.columns, row, strict=True):
            assert table.at_s(amount, sequences=batch) == pytest.approx(time_s, rel=1e-12, abs=1e-15)


@given(tables(), AMOUNTS, AMOUNTS)
def test_a_cost_inside_the_range_lies_between_the_measured_ones(table: CostTable, amount: float, batch: float) -> None:
    flat = [time_s for row in table.time_s for time_s in row]
    if table.covers(amount, sequences=batch):
        assert min(flat) - 1e-12 <= table.at_s(amount, sequences=batch) <= max(flat) + 1e-12


@given(tables(), AMOUNTS, AMOUNTS)
def test_a_cost_is_never_negative_however_far_outside(table: CostTable, amount: float, batch: float) -> None:
    assert table.at_s(amount * 10, sequences=batch * 10) >= 0.0


@given(tables(is_monotone=True), AMOUNTS, AMOUNTS, st.integers(0, 1000))
def test_more_work_never_costs_less_where_no_measured_point_does(
    table: CostTable, amount: float, more: float, column: int
) -> None:
    batch = table.columns[column % len(table.columns)]
    assert table.at_s(amount + more, sequences=batch) >= table.at_s(amount, sequences=batch) - 1e-12


@given(tables(is_monotone=True), AMOUNTS)
def test_below_the_first_amount_its_cost_holds(table: CostTable, amount: float) -> None:
    if amount <= table.amounts[0]:
        assert table.at_s(amount, sequences=table.columns[0]) == table.time_s[0][0]


@given(tables(), st.lists(st.tuples(AMOUNTS, AMOUNTS), min_size=1, max_size=9))
def test_many_costs_at_once_are_those_asked_one_by_one(table: CostTable, asked: list[tuple[float, float]]) -> None:
    amounts, batches = map(np.array, zip(*asked, strict=True))
    one_by_one = [table.at_s(amount, sequences=batch) for amount, batch in asked]
    assert table.times_s(amounts, sequences=batches) == pytest.approx(one_by_one, rel=1e-9, abs=1e-12)
    inside = [bool(table.covers(amount, sequences=batch)) for amount, batch in asked]
    assert table.covers(amounts, sequences=batches).tolist() == inside


def test_a_table_is_asked_by_the_name_of_its_columns_alone() -> None:
    grid = {"amounts": (1.0,), "columns": (1.0, 2.0), "time_s": ((1.0, 2.0),)}
    table = CostTable(amount="pages", columns_are="piece_bytes", **grid)
    assert table.at_s(1, piece_bytes=2) == 2.0
    for at in ({"sequences": 2}, {}, {"piece_bytes": 2, "sequences": 1}):
        for ask in (table.at_s, table.covers, lambda amount, **at: table.column_at(**at)):
            with pytest.raises(TypeError, match="a cost over piece_bytes was asked for by"):
                ask(1, **at)
    with pytest.raises(ValueError, match="columns_are must say what several columns count"):
        CostTable(amount="pages", **grid)
    assert constant(3.0).at_s(1, sequences=4) == constant(3.0).at_s(1) == 3.0  # whatever the column


def test_a_file_of_schema_version_1_loads_as_what_it_meant(tmp_path: Path) -> None:
    grid = {"amounts": (1.0,), "columns": (0.0, 9.0), "time_s": ((1.0, 2.0),)}
    rows = CostTable(amount="rows", columns_are="row_bytes", **grid)
    calls = CostTable(amount="tokens", columns_are="cached_tokens", **grid)
    device = CostTable(amount="none", columns_are="sequences", **grid)
    segments = {name: SegmentCost(device=device) for name in SEGMENTS}
    new = profile(segments=segments, caches={"rows.copy": rows, "forward@2": calls}, prefill=calls)
    write_profile(new, tmp_path / "p.toml")
    text = (tmp_path / "p.toml").read_text()
    old = re.sub("^columns = ", "batches = ", re.sub("^columns_are = .*\n", "", text, flags=re.M), flags=re.M)
    (tmp_path / "old.toml").write_text(old.replace("schema_version = 2", "schema_version = 1"))
    assert "columns" not in (tmp_path / "old.toml").read_text()
    loaded = load_profile(tmp_path / "old.toml")
    assert loaded.caches == new.caches
    assert (loaded.prefill, loaded.segments, loaded.link) == (new.prefill, new.segments, new.link)


def test_beyond_the_last_amount_the_last_slope_goes_on() -> None:
    table = CostTable(amount="pages", amounts=(0.0, 10.0, 20.0), time_s=((0.0,), (1.0,), (3.0,)))
    assert table.at_s(30) == pytest.approx(5.0)
    assert not table.covers(30)
    assert table.covers(20)


@pytest.mark.parametrize("kind", ["measured", "published", "estimated"])
def test_costs_that_claim_to_be_sure_are_refused_but_for_exact_ones(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "p.toml"
    write_profile(profile(), path)
    path.write_text(
        path.read_text().replace('kind = "exact"', f'kind = "{kind}"').replace('source = ""', 'source = "s"')
    )
    with pytest.raises(CalibrationError, match=r"residual_high_frac is not above residual_low_frac in segments\.embed"):
        load_profile(path)
