"""Cards: those that ship are whole, sourced and plausible; a user's own are read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvsim.errors import CalibrationError
from kvsim.profile.cards.load import card_names, load_card

OWN = """
architecture = "sm_86"
memory_bytes = "24 GiB"
memory_bandwidth_bytes_per_s = "936 GB"
bf16_flop_per_s = 71e12
link_nominal_bytes_per_s = "32 GB"
link_achieved_bytes_per_s = "25 GB"
"""


@pytest.fixture
def own(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return write


def test_at_least_twenty_cards_ship():
    assert len(card_names()) >= 20


@pytest.mark.parametrize("name", card_names())
def test_every_figure_of_a_card_has_a_source_and_a_date(name):
    card = load_card(name)
    assert set(card.sources) == set(card.figures())
    undated = {"units-x-clock", "pcie", "generation", "taken", "no link", "nominal", "worked", "two thirds", "vllm PR"}
    for figure, source in card.sources.items():
        assert "202" in source or any(source.startswith(start) for start in undated | {"PCI Express"}), figure


@pytest.mark.parametrize("name", card_names())
def test_a_card_is_plausible(name):
    """Bounds that a slip of a digit or of a unit would break."""
    card = load_card(name)
    assert 2**33 < card.memory_bytes < 2**40
    assert 0.9 < card.usable_memory_bytes / card.memory_bytes <= 1
    assert 200e9 < card.memory_bandwidth_bytes_per_s < 10e12
    rate = card.bf16_flop_per_s or card.fp16_flop_per_s
    assert rate is not None
    assert 15 < rate / card.memory_bandwidth_bytes_per_s < 600  # matrix operations a byte read
    if card.fp8_flop_per_s is not None:
        assert card.fp8_flop_per_s == pytest.approx(2 * rate, rel=0.02)
    if card.unified_memory:
        assert card.copy_bytes_per_s == card.memory_bandwidth_bytes_per_s / 2
    else:
        assert 0.7 <= card.copy_bytes_per_s / card.link_nominal_bytes_per_s < 1
        assert card.copy_bytes_per_s < card.memory_bandwidth_bytes_per_s


@pytest.mark.parametrize("name", card_names())
def test_what_was_worked_out_or_not_found_is_marked_as_unchecked(name):
    card = load_card(name)
    for figure, source in card.sources.items():
        if source.startswith(("worked out", "nominal", "two thirds")):
            assert figure in card.unchecked


def test_a_misspelt_card_names_the_nearest():
    with pytest.raises(CalibrationError, match=r"rtx4090: no such card.*did you mean 'rtx-4090'"):
        load_card("rtx4090")


def test_a_users_own_card_needs_no_sources(own):
    card = load_card(own(OWN))
    assert (card.name, card.vendor, card.memory_bytes) == ("mine", "other", 24 * 2**30)
    assert card.usable_memory_bytes == card.memory_bytes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"24 GiB"', '"0 GiB"'), r"memory_bytes.*greater than 0"),
        (
            ("memory_bandwidth_bytes_per_s", "memory_bandwith_bytes_per_s"),
            "did you mean 'memory_bandwidth_bytes_per_s'",
        ),
        (('"936 GB"', '"936 parsecs"'), "is no size"),
        (('"25 GB"', '"35 GB"'), "above link_nominal_bytes_per_s"),
        (('link_achieved_bytes_per_s = "25 GB"', ""), "unified_memory = true"),
        (('link_achieved_bytes_per_s = "25 GB"', "unified_memory = true"), "there is no link"),
        (("bf16_flop_per_s = 71e12", ""), "give bf16_flop_per_s or fp16_flop_per_s"),
        (("71e12", "inf"), "finite"),
        (("bf16_flop_per_s = 71e12", 'bf16_flop_per_s = 71e12\nunchecked = ["bf16"]'), "'bf16' is no figure"),
    ],
)
def test_a_wrong_card_of_ones_own_is_refused_with_what_would_be_right(own, change, message):
    with pytest.raises(CalibrationError, match=message):
        load_card(own(OWN.replace(*change)))


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(CalibrationError, match="no such file"):
        load_card(tmp_path / "none.toml")
