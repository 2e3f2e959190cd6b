"""How a figure is written: one place decides digits, signs, units and dashes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from policies.errors import InvalidInputError

UnitKind = Literal["number", "count", "share", "points", "relative", "money", "probability", "days", "seconds", "ratio"]

_MINUS = "\u2212"
_NO_BREAK = "\u00a0"
_ABSENT = "–"


@dataclass(frozen=True, slots=True)
class Unit:
    """What a figure is measured in, and how many digits it deserves.

    Parameters
    ----------
    kind
        ``share`` is a value in [0, 1] written as a percentage; ``points`` is a difference of two shares, written in
        percentage points; ``relative`` is a relative change, written as a signed percentage; ``probability`` is a
        p-value or a chance; ``money`` carries its ``symbol``; ``count`` is a whole number.
    symbol
        Currency sign or a word that follows a plain number (``ms``, ``subjects``).
    digits
        Digits after the decimal point; None chooses them from the size of the value.
    """

    kind: UnitKind = "number"
    symbol: str = ""
    digits: int | None = None


NUMBER = Unit("number")
COUNT = Unit("count")
SHARE = Unit("share")
POINTS = Unit("points")
RELATIVE = Unit("relative")
PROBABILITY = Unit("probability")
DAYS = Unit("days")
RATIO = Unit("ratio")


def money(symbol: str, *, digits: int | None = None) -> Unit:
    """Money in one currency, for example ``money("€")``."""
    return Unit("money", symbol, digits)


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with what the data allow around it; the only way an estimate enters a report.

    Parameters
    ----------
    level
        Probability that intervals made this way contain the truth.
    method
        How it was made, in a few words (``Newcombe``, ``repeated, look 3 of 5``).
    """

    estimate: float
    low: float
    high: float
    level: float = 0.95
    method: str = ""

    def __post_init__(self) -> None:
        if not self.low <= self.high and not (math.isnan(self.low) or math.isnan(self.high)):
            raise InvalidInputError(f"interval runs from {self.low} to {self.high}; the lower limit comes first")
        if not 0.0 < self.level < 1.0:
            raise InvalidInputError(
                f"interval level is {self.level}; expected a probability between 0 and 1, like 0.95"
            )

    @property
    def half_width(self) -> float:
        """Half the distance between the limits."""
        return (self.high - self.low) / 2

    def excludes(self, value: float) -> bool:
        """Whether a value lies outside the limits."""
        return not self.low <= value <= self.high

    def scaled(self, factor: float) -> Interval:
        """Return the same interval in another unit."""
        low, high = sorted((self.low * factor, self.high * factor))
        return Interval(self.estimate * factor, low, high, self.level, self.method)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file; a limit that does not exist is null."""
        return {
            "estimate": finite_or_none(self.estimate),
            "low": finite_or_none(self.low),
            "high": finite_or_none(self.high),
            "level": self.level,
            "method": self.method,
        }


def finite_or_none(value: float) -> float | None:
    """Return the value, or None where it is not a finite number (JSON has no other)."""
    return float(value) if math.isfinite(value) else None


def format_value(value: float | None, unit: Unit = NUMBER, *, signed: bool = False) -> str:
    """Write one figure for a reader.

    Parameters
    ----------
    signed
        Write a plus before positive values; differences in points and relative changes always have a sign.
    """
    if value is None or math.isnan(value):
        return _ABSENT
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    scaled = value * 100 if unit.kind in ("share", "points", "relative") else value
    signed = signed or unit.kind in ("points", "relative")
    if unit.kind == "probability" and 0 <= value < 0.001:
        return "< 0.001"
    digits = 0 if isinstance(value, int) and unit is NUMBER else _digits(scaled, unit)
    text = f"{abs(scaled):,.{digits}f}".replace(",", _NO_BREAK)
    is_zero = not any(c in "123456789" for c in text)
    sign = "" if is_zero else _MINUS if scaled < 0 else "+" if signed else ""
    return sign + _with_symbol(text, unit)


def format_interval(interval: Interval, unit: Unit = NUMBER, *, signed: bool = False) -> str:
    """Write an estimate and, in brackets, its limits."""
    middle, low, high = (format_value(v, unit, signed=signed) for v in (interval.estimate, interval.low, interval.high))
    return f"{middle} ({low} to {high})"


def _digits(scaled: float, unit: Unit) -> int:
    if unit.digits is not None:
        return unit.digits
    size = abs(scaled)
    if unit.kind == "count":
        return 0
    if unit.kind in ("share", "points", "relative"):
        return 1 if size >= 10 else 2
    if unit.kind == "money":
        return 0 if size >= 1000 else 2 if size >= 0.01 or size == 0 else 4
    if unit.kind == "probability":
        return 3
    if unit.kind == "days":
        return 0 if size >= 10 else 1
    if size == 0 or size >= 1000:
        return 0
    return max(0, 2 - math.floor(math.log10(size))) if size < 100 else 1


def _with_symbol(text: str, unit: Unit) -> str:
    if unit.kind in ("share", "relative"):
        return f"{text}{_NO_BREAK}%"
    if unit.kind == "points":
        return f"{text}{_NO_BREAK}pp"
    if unit.kind == "money":
        return f"{text}{_NO_BREAK}{unit.symbol}"
    if unit.kind == "days":
        return f"{text}{_NO_BREAK}days"
    if unit.kind == "seconds":
        return f"{text}{_NO_BREAK}s"
    if unit.kind == "ratio":
        return f"{text}{_NO_BREAK}×"
    return f"{text}{_NO_BREAK}{unit.symbol}" if unit.symbol else text
