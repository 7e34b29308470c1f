"""What people write into SI units: the only place that converts, for files and for print."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction

from kvsim.errors import ScenarioError

_BYTE_UNITS = {
    "B": 1,
    "byte": 1,
    "bytes": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SHOWN = [unit for unit in _BYTE_UNITS if unit.endswith("B")]
_WHOLE = r"[0-9]{1,3}(?:,[0-9]{3}){1,9}|[0-9]{1,30}"
_QUANTITY = re.compile(rf"\s*(?P<number>(?:{_WHOLE})(?:\.[0-9]{{1,30}})?)\s*(?P<unit>[A-Za-z]*)\s*\Z")


def parse_bytes(text: str | int) -> int:
    """Return the bytes that `text` names, a fraction of a byte left out.

    Taken is every size that kvsim, vLLM, torch and nvidia-smi print: with or without a space, with commas between
    thousands, with as many digits as they like.

    Raises
    ------
    ScenarioError
        If `text` is no number with a byte unit.

    Examples
    --------
    >>> parse_bytes("24 GiB")
    25769803776
    >>> parse_bytes("1.5 MB")
    1500000
    >>> parse_bytes("23.58 GiB"), parse_bytes("24,564MiB")
    (25318832209, 25757220864)
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    match = _QUANTITY.match(str(text))
    if match is None or (match["unit"] or "B") not in _BYTE_UNITS:
        raise ScenarioError(f'{text!r} is no size: write a number and one of {", ".join(_SHOWN)}, as in "24 GiB"')
    return math.floor(Fraction(match["number"].replace(",", "")) * _BYTE_UNITS[match["unit"] or "B"])


def parse_tokens(text: str) -> int:
    """Return the tokens that `text` names; ``k`` is 1,024 and ``M`` 1,048,576.

    Raises
    ------
    ScenarioError
        If `text` is no whole number of tokens.

    Examples
    --------
    >>> parse_tokens("64k"), parse_tokens("20,000")
    (65536, 20000)
    """
    return int(_quantity(text, {"": Fraction(1), "k": Fraction(1024), "M": Fraction(1024**2)}, "20000 or 64k"))


def parse_seconds(text: str) -> float:
    """Return the seconds that `text` names.

    Raises
    ------
    ScenarioError
        If `text` is no number with a unit of time.

    Examples
    --------
    >>> parse_seconds("50ms")
    0.05
    """
    units = {"s": Fraction(1), "ms": Fraction(1, 1000), "us": Fraction(1, 10**6)}
    return float(_quantity(text, units, "50ms or 0.2 s", is_whole=False))


def _quantity(text: str, units: Mapping[str, Fraction], example: str, *, is_whole: bool = True) -> Fraction:
    match = _QUANTITY.match(text)
    if match is None or match["unit"] not in units:
        raise ScenarioError(f"{text!r}: write a number{' and a unit' if '' not in units else ''}, as in {example}")
    value = Fraction(match["number"].replace(",", "")) * units[match["unit"]]
    if is_whole and value.denominator != 1:
        raise ScenarioError(f"{text!r} is not a whole number, as {example} are")
    return value


def format_bytes(size_bytes: float) -> str:
    """Return `size_bytes` for people, in binary units with three significant digits.

    Examples
    --------
    >>> format_bytes(25769803776)
    '24 GiB'
    >>> format_bytes(1536)
    '1.5 KiB'
    """
    magnitude = float(abs(size_bytes))
    for unit in ("B", "KiB", "MiB", "GiB"):
        if magnitude < 1023.5:
            return f"{'-' if size_bytes < 0 else ''}{_three_digits(magnitude)} {unit}"
        magnitude /= 1024
    return f"{'-' if size_bytes < 0 else ''}{_three_digits(magnitude)} TiB"


def format_seconds(time_s: float) -> str:
    """Return `time_s` for people, in the unit that leaves one to three digits before the point.

    Examples
    --------
    >>> format_seconds(0.0123)
    '12.3 ms'
    """
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if abs(time_s) >= scale:
            return f"{_three_digits(time_s / scale)} {unit}"
    return "0 s" if time_s == 0 else f"{_three_digits(time_s / 1e-9)} ns"


def _three_digits(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 99.95 else f"{number:.3g}"
