"""Features: which stand still, and whether visitors are those of before."""

from __future__ import annotations

import math

from engine.monitoring.cells import MISSING, Table
from engine.monitoring.evidence import stability_index
from engine.monitoring.records import Check
from engine.monitoring.usual import log_chance_of_standing
from engine.monitoring.window import LEAST_A_DAY, Window
from policies.records import FloatArray

# Chance that a feature stands still for so many decisions by luck.
_LOG_LUCK = math.log(1e-9)
_LEAST_STANDING = 50
_STANDING = 0.999


def constant(window: Window) -> Check:
    """Features that have one value (or none) for all recent decisions, and on every day before had several."""
    if not window.has_reference:
        return Check("constant", "unknown", "What is usual is known after three days.")
    if window.n_recent < _LEAST_STANDING:
        return Check("constant", "unknown", f"{window.n_recent:.0f} recent decisions are too few to tell.")
    bad: list[str] = []
    largest = 0.0
    now = _counts(window.now("feature"), window.now("finger"), window.many, window.n_recent)
    days = []
    for day in window.days:
        n = float(window.on(day, "choice").n.sum())
        days.append(_counts(window.on(day, "feature"), window.on(day, "finger"), window.many, n))
    for name in sorted(set().union(*days)):
        # A feature that some days did not have was new then, or is one of some visitors only.
        if not all(name in day for day in days):
            continue
        usual = max(_commonest(day[name]) for day in days)
        shares = now.get(name, {MISSING: window.n_recent})
        share = _commonest(shares)
        if usual < _STANDING:
            largest = max(largest, share)
        if share >= _STANDING and log_chance_of_standing(usual, window.n_recent) < _LOG_LUCK:
            what = "is missing" if max(shares, key=lambda k: shares[k]) == MISSING else "has one value"
            bad.append(f"{name} {what} in {window.n_recent:.0f} decisions; its commonest value had {usual:.0%} at most")
    told = f"A feature stands still: {bad[0]}." if bad else "Every feature that moved before still moves."
    return Check("constant", "ringing" if bad else "ok", told, largest or None, 1.0, tuple(bad))


def drift(window: Window) -> Check:
    """Population stability index of each feature of the last day against the days before."""
    limit = window.limits.drift_psi
    if not window.has_reference or window.n_day < LEAST_A_DAY:
        return Check("drift", "unknown", "What is usual is known after three days.")
    n_before = float(window.before("choice").n.sum())
    now, before = (
        _bins(window, window.today("feature"), window.n_day),
        _bins(window, window.before("feature"), n_before),
    )
    days = [_bins(window, window.on(d, "feature"), float(window.on(d, "choice").n.sum())) for d in window.days]
    bad: list[tuple[float, str]] = []
    largest = 0.0
    for name in sorted(now.keys() & before.keys()):
        if not all(name in day for day in days):
            continue
        index = _distance(now[name], before[name])
        # Weekends differ from workdays: only what no day before was like is news.
        usual = max(_distance(day[name], before[name]) for day in days)
        largest = max(largest, index)
        if index > max(limit, 2 * usual):
            bad.append((index, f"{name}: index {index:.2f}; on no day before above {usual:.2f}"))
    bad.sort(reverse=True)
    told = f"Visitors are not those of before: {bad[0][1]}." if bad else "Visitors are like those of before."
    return Check("drift", "ringing" if bad else "ok", told, largest, limit, tuple(line for _, line in bad))


_Counts = dict[str, dict[str, float]]


def _counts(bins: Table, fingers: Table, many: frozenset[str], n: float) -> _Counts:
    """Decisions by feature and value: fingerprints of numbers, texts as they are; what is left over is missing."""
    numbers = fingers.by(lambda key: key)
    out = _by_feature(numbers)
    texts = _by_feature({k: v for k, v in bins.by(lambda key: key).items() if k[0] not in out and _is_used(k, many)})
    return {name: _with_missing(counts, n) for name, counts in (out | texts).items()}


def _bins(window: Window, table: Table, n: float) -> _Counts:
    found = {k: v for k, v in table.by(lambda key: key).items() if _is_used(k, window.many)}
    return {name: _with_missing(counts, n) for name, counts in _by_feature(found).items()}


def _is_used(key: tuple[str, ...], many: frozenset[str]) -> bool:
    """Whether a cell counts: of a feature with many texts only what was taken by hash."""
    return key[1] != MISSING and (key[0] not in many or key[1].startswith("#"))


def _by_feature(found: dict[tuple[str, ...], FloatArray]) -> _Counts:
    out: _Counts = {}
    for (name, label), sums in found.items():
        out.setdefault(name, {})[label] = float(sums[0])
    return out


def _with_missing(counts: dict[str, float], n: float) -> dict[str, float]:
    left = n - sum(counts.values())
    return counts | ({MISSING: left} if left > 0.5 else {})


def _commonest(counts: dict[str, float]) -> float:
    return max(counts.values()) / sum(counts.values())


def _distance(now: dict[str, float], before: dict[str, float]) -> float:
    labels = sorted(now.keys() | before.keys())
    return stability_index([now.get(x, 0.0) for x in labels], [before.get(x, 0.0) for x in labels])
