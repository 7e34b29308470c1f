from __future__ import annotations

from pathlib import Path

import pytest

from kvsim.errors import CalibrationError
from kvsim.experiments.decode.cells import Cell, Extent, cells_of, resolve
from kvsim.experiments.decode.outside_profile import SLACK, beyond_profile
from kvsim.experiments.decode.simulate import simulate, warnings
from kvsim.experiments.types import Job
from kvsim.profile.profile import Profile, write_profile
from kvsim.profile.tables import CostTable
from kvsim.scenario.decode import load_scenario
from kvsim.scenario.shipped import find_scenario
from tests.accesses import make_profile, shape_text

SCENARIO = """
schema_version = 1
name = "asks"
page_tokens = {page_tokens}
[model.shape]
{shape}
[profile]
path = "p.toml"
[trace]
path = "smollm2-docs"
[budget]
context_frac = 0.5
[selector]
name = "top-k"
k_pages = 8
sink_pages = 1
recent_pages = 2
[run]
policies = {policies}
batch = {batch}
"""


def table(amount: str, amounts: tuple[float, ...], columns: tuple[float, ...], columns_are: str) -> CostTable:
    times = tuple(tuple(1e-4 * (row + column + 1) for column in range(len(columns))) for row in range(len(amounts)))
    names = {"amount": amount, "columns_are": columns_are}
    return CostTable.model_validate(names | {"amounts": amounts, "columns": columns, "time_s": times})


def measured_profile() -> Profile:
    """Return a profile measured for 128 to 4096 attended tokens, batches of 1 and 2, pages of 4 and 8 KiB."""
    base = make_profile()
    segments = {
        name: cost.model_copy(
            update={
                "device": {
                    "attention": table("tokens", (128.0, 4096.0), (1.0, 2.0), "sequences"),
                    "select": table("pages", (8.0, 256.0), (1.0, 2.0), "sequences"),
                }.get(name, table("none", (1.0,), (1.0, 2.0), "sequences"))
            }
        )
        for name, cost in base.segments.items()
    }
    copies = table("pieces", (1.0, 40.0), (4096.0, 8192.0), "piece_bytes")
    link = base.link.model_copy(
        update={
            way: getattr(base.link, way).model_copy(update={"transfer": copies}) for way in ("to_device", "to_host")
        }
    )
    policies = {
        "lru": table("pages", (6.0, 48.0), (100.0, 1000.0), "grid_pages"),
        "stream": table("pages", (20.0, 150.0), (1.0,), "none"),
    }
    return base.model_copy(update={"segments": segments, "link": link, "policies": policies})


def cells(
    folder: Path,
    profile: Profile | None = None,
    *,
    page_tokens: int = 16,
    batch: int = 1,
    policies: str = '["resident", "lru"]',
) -> list[Cell]:
    profile = profile or measured_profile()
    write_profile(profile, folder / "p.toml")
    file = folder / "asks.toml"
    file.write_text(
        SCENARIO.format(page_tokens=page_tokens, shape=shape_text(profile.shape), policies=policies, batch=batch)
    )
    built = cells_of(load_scenario(file), lambda *_: Extent(context_tokens=512, num_steps=10), base_dir=folder)
    return resolve(built, lambda cell: None)


def at(cells: list[Cell], *contexts: int) -> list[Cell]:
    return [
        cell.with_extent(Extent(context_tokens=tokens, num_steps=10))
        for cell, tokens in zip(cells, contexts, strict=True)
    ]


def lines(found: list[Cell], context_tokens: int) -> list[str]:
    return [str(line) for line in beyond_profile(at(found, *[context_tokens] * len(found)))]


def test_run_inside_the_measured_range_is_told_nothing(tmp_path: Path) -> None:
    assert lines(cells(tmp_path), 512) == []


def test_attention_beyond_its_range_is_told_once_with_the_range_and_the_most_that_was_asked(tmp_path: Path) -> None:
    found = lines(cells(tmp_path, policies='["resident", "stream"]'), 131_072)
    told = [line for line in found if "attention was" in line]
    assert told == [
        "Outside the profile: attention was measured for 128 to 4,096 attended tokens; asked for up to 131,072: "
        "extrapolated linearly."
    ]


def test_most_that_any_cell_asks_is_told_whatever_the_order_of_cells(tmp_path: Path) -> None:
    (cell,) = cells(tmp_path, policies='["stream"]')
    for contexts in ([131_072, 8192, 64], [64, 8192, 131_072]):
        (told,) = [found for found in beyond_profile(at([cell] * 3, *contexts)) if found.cost == "segments.attention"]
        assert (told.asked_low, told.asked_high) == (64, 131_072)


def test_each_cost_has_its_own_line_and_the_order_is_always_the_same(tmp_path: Path) -> None:
    found = beyond_profile(at(cells(tmp_path, policies='["lru", "stream"]'), 131_072, 131_072))
    names = [(line.cost, line.counts) for line in found]
    assert names == sorted(names)
    assert names == [
        ("link.to_device", "pieces"),
        ("policies.lru", "all pages"),
        ("policies.stream", "pages"),
        ("segments.attention", "tokens"),
        ("segments.select", "pages"),
    ]


def test_policy_that_selects_asks_for_what_it_reads_and_not_for_the_context(tmp_path: Path) -> None:
    found = beyond_profile(at(cells(tmp_path, policies='["lru"]'), 131_072))
    assert "segments.attention" not in {line.cost for line in found}


def test_smallest_amount_below_the_range_is_told_to_cost_what_the_least_measured_one_does(tmp_path: Path) -> None:
    line = "attention was measured for 128 to 4,096 attended tokens; asked for as few as 96: taken as at 128."
    assert f"Outside the profile: {line}" in lines(cells(tmp_path), 96)


@pytest.mark.parametrize(("factor", "is_told"), [(0.99, False), (1.01, True)])
def test_line_begins_where_the_slack_ends(tmp_path: Path, factor: float, is_told: bool) -> None:
    context = round(4096 * SLACK * factor)
    found = lines(cells(tmp_path, policies='["stream"]'), context)
    assert bool([line for line in found if "attention was" in line]) is is_told


def test_batch_and_page_size_beyond_the_profile_are_told(tmp_path: Path) -> None:
    """Pages of 64 tokens of the test's shape have 16 KiB, twice the largest measured."""
    beyond = beyond_profile(cells(tmp_path, page_tokens=64, batch=4))
    found = {(line.cost, line.counts): line for line in beyond}
    assert found["segments.head", "sequences"].asked_high == 4
    assert found["link.to_device", "bytes"].asked_high == 2 * 8192
    assert "8 KiB a page; asked for up to 16 KiB" in str(found["link.to_host", "bytes"])


def test_page_size_that_a_profile_of_one_size_knows_nothing_of_is_refused(tmp_path: Path) -> None:
    profile = measured_profile()
    copies = table("pieces", (1.0, 40.0), (4096.0,), "piece_bytes")
    link = profile.link.model_copy(update={"to_device": profile.link.to_device.model_copy(update={"transfer": copies})})
    known = cells(tmp_path, profile.model_copy(update={"link": link}))
    assert lines(known, 512) == []
    other = cells(tmp_path, profile.model_copy(update={"link": link}), page_tokens=32)
    with pytest.raises(CalibrationError, match=r"pages of 4 KiB only, pages of 32 tokens have 8 KiB") as caught:
        beyond_profile(other)
    assert "\n" not in str(caught.value)


def test_shipped_profile_says_of_128_token_pages_that_its_copies_are_extrapolated() -> None:
    path = find_scenario("kv_prefetch")
    scenario = load_scenario(path)
    found = warnings(scenario, path.parent)
    assert (
        "Outside the profile: a copy to the device was measured for 12 KiB to 48 KiB a page; asked for up to 96 KiB: "
        "extrapolated linearly." in found
    )
    assert found == warnings(scenario, path.parent)


def test_run_keeps_what_lies_outside_its_profile_in_summary_and_verdict(tmp_path: Path) -> None:
    path = find_scenario("smollm2_cpu")
    scenario = load_scenario(path, ["trace.num_steps=10", "run.batch=4", 'run.policies=["stream"]'])
    summary = simulate(scenario, Job(base_dir=path.parent)).summary
    found = next(one for one in summary["beyond_profile"] if one["cost"] == "link.to_device")
    assert found["counts"] == "pieces" and found["asked_high"] > SLACK * found["measured_high"]
    said = "Outside the profile: a copy to the device was measured for 1 to 410 pages"
    assert any(line.startswith(said) for line in summary["verdict"])
