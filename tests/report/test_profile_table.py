"""The text of a profile: each cost with its range and residuals, and of published ones every source."""

from __future__ import annotations

from kvsim.profile.profile import Profile, load_profile
from kvsim.profile.tables import CostTable
from kvsim.report.profile_table import profile_text
from kvsim.scenario.shipped import find_profile


def published() -> Profile:
    return load_profile(find_profile("h200-llama-3-8b-published"))


def measured(**changes: object) -> Profile:
    table = CostTable(
        amount="pages",
        amounts=(1.0, 64.0),
        columns_are="sequences",
        columns=(1.0, 4.0),
        time_s=((1e-5, 2e-5), (3e-3, 4e-3)),
        residual_low_frac=-0.04,
        residual_high_frac=0.12,
        median_error_frac=0.015,
        num_samples=80,
    )
    whole = published()
    segments = whole.segments | {"select": whole.segments["select"].model_copy(update={"device": table})}
    link = whole.link.model_copy(update={"emulated": True, "stated_bandwidth_bytes_per_s": 0.25e9})
    return whole.model_copy(update={"kind": "measured", "segments": segments, "link": link, **changes})


def line_of(text: str, start: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line


def test_a_measured_cost_has_range_residuals_and_samples() -> None:
    line = line_of(profile_text(measured()), "segments.select ")
    assert "  1 .. 64 pages batch 1 .. 4  " in line
    assert "10 us .. 4 ms" in line
    assert "-4% .. +12%" in line
    assert line.endswith("1.5%       80")


def test_a_cost_of_which_nothing_was_sampled_shows_its_interval_and_no_samples() -> None:
    assert line_of(profile_text(measured()), "segments.head ").split()[-5:] == ["-11%", "..", "+11%", "-", "-"]
    assert line_of(profile_text(measured()), "policies.resident ").split()[-3:] == ["-", "-", "-"]


def test_copies_are_told_in_pieces_and_their_size() -> None:
    assert "1 .. 100,000 pieces of 4 KiB .. 2 MiB" in line_of(profile_text(published()), "link.to_device ")


def test_an_emulated_link_is_called_so_with_its_bandwidth() -> None:
    text = profile_text(measured())
    assert "emulated link" in text.splitlines()[0] + text.splitlines()[1]
    assert "bandwidth that the link is held to: 0.25 GB/s" in text
    assert "emulated" not in profile_text(published())


def test_a_published_profile_tells_the_source_of_every_table_and_number() -> None:
    profile = published()
    text = profile_text(profile)
    assert "published on" in text
    for name in [*profile.tables(), *profile.sources]:
        assert f"\n  {name}: " in text
    assert "\nsources" not in profile_text(measured())


def test_no_line_but_the_table_is_wider_than_asked() -> None:
    lines = profile_text(published(), width=80).splitlines()
    last_of_table = max(number for number, line in enumerate(lines) if line.startswith("link."))
    assert max(len(line) for line in lines[last_of_table + 1 :]) <= 80


def test_prefill_is_told_as_new_tokens_after_cached_ones() -> None:
    grid = {"amounts": (24.0, 256.0), "columns": (0.0, 1088.0), "time_s": ((0.1, 0.2), (0.3, 0.4))}
    table = CostTable(amount="tokens", columns_are="cached_tokens", **grid)
    assert "24 .. 256 tokens after 0 .. 1088" in line_of(profile_text(measured(prefill=table)), "prefill ")


def test_the_other_caches_are_told_in_what_their_columns_count() -> None:
    text = profile_text(load_profile(find_profile("cpu-smollm2-135m")))
    assert "1 .. 448 tokens after 0 .. 416" in line_of(text, "caches.forward@2 ")
    assert "1 .. 1,600 rows of 1 KiB .. 16 KiB" in line_of(text, "caches.rows.copy ")
    assert "3 .. 4,096 tokens  " in line_of(text, "caches.restore.host ")
