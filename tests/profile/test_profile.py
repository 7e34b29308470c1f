"""A profile survives its file unchanged, and a cost between measured points lies between their costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import CalibrationError
from kvsim.profile.profile import SEGMENTS, Link, LinkCost, Machine, Profile, SegmentCost, load_profile, write_profile
from kvsim.profile.tables import CostTable
from kvsim.scenario.shapes import SHAPES


def constant(time_s: float, source: str = "") -> CostTable:
    return CostTable(amount="none", amounts=(0.0,), batches=(1.0,), time_s=((time_s,),), source=source)


def profile(**changes: Any) -> Profile:
    copy = CostTable(
        amount="pieces",
        amounts=(1.0, 8.0),
        batches=(4096.0, 65536.0),
        time_s=((1e-6, 2e-6), (5e-6, 1 / 3e5)),
        residual_low_frac=-0.04,
        residual_high_frac=0.1,
        num_samples=2,
        samples=((1.0, 4096.0, 1.1e-6), (1.0, 4096.0, 0.9e-6)),
    )
    link = LinkCost(transfer=copy, submit_s=1e-6, mechanism="emulated")
    values = {
        "schema_version": 1,
        "name": "test",
        "kind": "measured",
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
    path.write_text("schema_version = 2\nnonsense = 1\n")
    with pytest.raises(CalibrationError, match=r"p\.toml: schema_version 2, this kvsim reads 1; calibrate again$"):
        load_profile(path)


@pytest.mark.parametrize(
    ("line", "changed", "fault"),
    [
        ("sync_s = 0.0", "sync = 0.0", "unknown key 'sync'; did you mean 'sync_s'?"),
        (
            'kind = "measured"',
            'kind = "x"',
            "kind: should be 'measured', 'published' or 'estimated', found 'x'",
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
    assert str(caught.value).startswith(f"{path}: {fault}")
    assert len(str(caught.value).splitlines()) == 1


def test_segments_must_be_those_of_a_step() -> None:
    with pytest.raises(ValueError, match=r"missing \['head'\], unknown \['heads'\]"):
        profile(segments={name.replace("head", "heads"): SegmentCost(device=constant(1)) for name in SEGMENTS})


def test_a_published_profile_must_give_every_source() -> None:
    with pytest.raises(ValueError, match="must give the source of every table"):
        profile(kind="published")


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
    ("amounts", "batches", "time_s"),
    [((1.0, 1.0), (1.0,), ((1.0,), (1.0,))), ((), (1.0,), ()), ((1.0,), (1.0,), ((1.0, 2.0),)), ((2.0,), (1.0,), ())],
)
def test_a_table_that_is_no_grid_is_refused(amounts: Any, batches: Any, time_s: Any) -> None:
    with pytest.raises(ValueError, match=r"must have a row for each|must not be empty and must increase"):
        CostTable(amount="pages", amounts=amounts, batches=batches, time_s=time_s)


def increasing(min_size: int) -> st.SearchStrategy[list[float]]:
    return st.lists(st.integers(0, 1000), min_size=min_size, max_size=5, unique=True).map(
        lambda numbers: sorted(map(float, numbers))
    )


@st.composite
def tables(draw: st.DrawFn, *, is_monotone: bool = False) -> CostTable:
    amounts, batches = draw(increasing(1)), draw(increasing(1))
    cost = st.floats(0, 1, allow_subnormal=False)
    rows = [[draw(cost) for _ in batches] for _ in amounts]
    if is_monotone:
        for i in range(len(amounts)):
            for j in range(len(batches)):
                rows[i][j] += max(rows[i - 1][j] if i else 0, rows[i][j - 1] if j else 0)
    return CostTable(amount="pages", amounts=tuple(amounts), batches=tuple(batches), time_s=tuple(map(tuple, rows)))


AMOUNTS = st.floats(0, 2000, allow_subnormal=False)


@given(tables())
def test_measured_points_are_given_back_exactly(table: CostTable) -> None:
    for amount, row in zip(table.amounts, table.time_s, strict=True):
        for batch, time_s in zip(table.batches, row, strict=True):
            assert table.at_s(amount, batch) == pytest.approx(time_s, rel=1e-12, abs=1e-15)


@given(tables(), AMOUNTS, AMOUNTS)
def test_a_cost_inside_the_range_lies_between_the_measured_ones(table: CostTable, amount: float, batch: float) -> None:
    flat = [time_s for row in table.time_s for time_s in row]
    if table.covers(amount, batch):
        assert min(flat) - 1e-12 <= table.at_s(amount, batch) <= max(flat) + 1e-12


@given(tables(), AMOUNTS, AMOUNTS)
def test_a_cost_is_never_negative_however_far_outside(table: CostTable, amount: float, batch: float) -> None:
    assert table.at_s(amount * 10, batch * 10) >= 0.0


@given(tables(is_monotone=True), AMOUNTS, AMOUNTS, st.integers(0, 1000))
def test_more_work_never_costs_less_where_no_measured_point_does(
    table: CostTable, amount: float, more: float, column: int
) -> None:
    batch = table.batches[column % len(table.batches)]
    assert table.at_s(amount + more, batch) >= table.at_s(amount, batch) - 1e-12


@given(tables(is_monotone=True), AMOUNTS)
def test_below_the_first_amount_its_cost_holds(table: CostTable, amount: float) -> None:
    if amount <= table.amounts[0]:
        assert table.at_s(amount, table.batches[0]) == table.time_s[0][0]


def test_beyond_the_last_amount_the_last_slope_goes_on() -> None:
    table = CostTable(amount="pages", amounts=(0.0, 10.0, 20.0), batches=(1.0,), time_s=((0.0,), (1.0,), (3.0,)))
    assert table.at_s(30, 1) == pytest.approx(5.0)
    assert not table.covers(30, 1)
    assert table.covers(20, 1)
