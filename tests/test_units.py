"""Sizes as people write them become bytes exactly, and figures for people keep three digits."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import ScenarioError
from kvsim.units import format_bytes, format_seconds, parse_bytes


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("24 GiB", 24 * 2**30),
        ("24GiB", 24 * 2**30),
        (" 1.5 MB ", 1_500_000),
        ("4.1 MB", 4_100_000),  # 4.1 * 10**6 is not a whole number in floating point
        ("0.3 GB", 300_000_000),
        ("512", 512),
        ("512 B", 512),
        (4096, 4096),
        ("23.58 GiB", 25_318_832_209),  # torch: the memory of a card of 24 GB; 25_318_832_209.92 to be exact
        ("14.9888 GiB", 16_094_101_451),
        ("24564MiB", 24_564 * 2**20),  # nvidia-smi
        ("24,564 MiB", 24_564 * 2**20),
        ("1,234,567.5 KB", 1_234_567_500),
        ("20 bytes", 20),
        ("1.5 B", 1),
    ],
)
def test_a_size_is_parsed_to_the_byte(text: str | int, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "24 gib",
        "24 G",
        "GiB",
        "-1 GiB",
        "1e3 B",
        "1,5 GB",
        "1,2345 GB",
        ",123 GB",
        "",
        "1 GiB 2",
        "9" * 5000,
        True,
        "٣ GiB",
    ],
)
def test_what_is_no_size_is_refused_with_the_units_that_are(text: str) -> None:
    with pytest.raises(ScenarioError, match=r"is no size: write a number and one of B, KB, .*TiB"):
        parse_bytes(text)


@given(st.integers(min_value=0, max_value=2**62), st.sampled_from(["KiB", "MiB", "GiB", "KB", "GB"]))
def test_whole_numbers_of_a_unit_are_exact_however_large(number: int, unit: str) -> None:
    scale = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "GB": 10**9}[unit]
    assert parse_bytes(f"{number} {unit}") == number * scale


@given(st.integers(min_value=1, max_value=2**50))
def test_a_printed_size_is_within_half_a_percent_of_the_bytes(size_bytes: int) -> None:
    assert abs(parse_bytes(format_bytes(size_bytes)) - size_bytes) <= 0.005 * size_bytes


@given(st.integers(min_value=0, max_value=2**50), st.sampled_from(["B", "KB", "MiB", "GiB", "TB"]), st.integers(0, 8))
def test_a_size_is_never_more_than_what_was_printed(size_bytes: int, unit: str, digits: int) -> None:
    scale = {"B": 1, "KB": 10**3, "MiB": 2**20, "GiB": 2**30, "TB": 10**12}[unit]
    printed = f"{size_bytes / scale:,.{digits}f}"
    exact = Fraction(printed.replace(",", "")) * scale
    assert 0 <= exact - parse_bytes(f"{printed} {unit}") < 1


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (-(2**31), "-2 GiB"), (3 * 2**40, "3 TiB")],
)
def test_a_size_is_printed_in_the_unit_that_suits_it(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("time_s", "text"),
    [(0, "0 s"), (12.34, "12.3 s"), (0.0123, "12.3 ms"), (4.2e-5, "42 us"), (3e-9, "3 ns"), (-0.002, "-2 ms")],
)
def test_a_time_is_printed_in_the_unit_that_suits_it(time_s: float, text: str) -> None:
    assert format_seconds(time_s) == text
