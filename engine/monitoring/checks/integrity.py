"""Whether the log is what was drawn and shown."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from engine.monitoring.cells import Table, day_of
from engine.monitoring.evidence import log_evidence
from engine.monitoring.records import Check
from engine.monitoring.window import Window
from policies.records import FloatArray, IntArray

# Evidence is shared among so many cells at least, so that a cell that appears later takes nothing from those before it.
_CELLS = 1_000
_LEAST_REPORTS = 20
_SHOWN = 5


def shown(window: Window) -> Check:
    """Reports of what the page has shown, against what was drawn."""
    reports = window.now("shown")
    n, n_other = float(reports.n.sum()), float(reports.a.sum())
    limit = window.limits.shown_share
    if not window.cells["shown"].n.sum():
        return Check(
            "shown", "off", "No page says what it has shown; send `shown` with the activation to have it looked at."
        )
    if n < _LEAST_REPORTS:
        return Check("shown", "unknown", f"{n:.0f} pages have said what they showed; {_LEAST_REPORTS} are needed.")
    share = n_other / n
    pairs = sorted(window.now("shown_as").by(lambda k: k).items(), key=lambda i: -i[1][0])[:_SHOWN]
    where = tuple(f"{drawn} was chosen, {other} shown: {v[0]:.0f} times" for (drawn, other), v in pairs)
    told = f"{n_other:.0f} of {n:.0f} pages ({share:.1%}) have shown another offer than the one chosen."
    # Two at least: one page that was open over a change is no fault.
    is_bad = share > limit and n_other >= 2
    return Check("shown", "ringing" if is_bad else "ok", told, share, limit, where if is_bad else ())


def propensity(window: Window) -> Check:
    """How often each policy drew each offer, against the sums of the probabilities it logged."""
    return _drawn(window, "propensity", window.cells["offer"], "{0} drew {1}")


def leak(window: Window) -> Check:
    """The same within each value of each feature: what is known before a draw cannot know the draw."""
    return _drawn(window, "leak", window.cells["leak"], "{0} = {1}: {2} was drawn")


def _drawn(window: Window, alarm: str, table: Table, line: str) -> Check:
    worst = _worst(window, table)
    if not worst:
        return Check(alarm, "unknown", "Nothing was drawn in these days.")
    limit = _limit(window, len(worst))
    ordered = sorted(worst.items(), key=lambda item: -item[1][0])
    bad = [item for item in ordered if item[1][0] >= limit]
    where = tuple(
        f"{line.format(*key)} {n:.0f} times, {expected:.0f} expected" for key, (_, n, expected) in bad[:_SHOWN]
    )
    told = (
        f"{len(bad)} of {len(worst):,} counts of draws do not follow the logged probabilities: {where[0]}."
        if bad
        else f"All {len(worst):,} counts of draws follow the logged probabilities."
    )
    return Check(alarm, "ringing" if bad else "ok", told, ordered[0][1][0], limit, where)


def _limit(window: Window, n_cells: int) -> float:
    return math.log(max(_CELLS, n_cells) / window.limits.integrity_alpha)


def _worst(window: Window, table: Table) -> dict[tuple[str, ...], tuple[float, float, float]]:
    """For each key the largest evidence of the runs of days that end now, one begun on each day, with its count and expectation.

    Each day begins one run that goes on for the days of the window: a false alarm of a day's run has probability alpha.
    """
    first = window.end - (window.limits.reference_days + 1) * 24
    table = table.where((table.hour < window.end) & (day_of(table.hour) >= first))
    by_key: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, key in enumerate(table.keys):
        by_key[key].append(i)
    if not by_key:
        return {}
    keys = list(by_key)
    rows = np.zeros(len(table), dtype=np.int64)
    for i, members in enumerate(by_key.values()):
        rows[members] = i
    days, at = np.unique(day_of(table.hour), return_inverse=True)
    sums = [_cumulated(rows, at, x, (len(keys), len(days))) for x in (table.n, table.a, table.b)]
    evidence = log_evidence(*sums)
    best = evidence.argmax(axis=1)
    picked = (np.arange(len(keys)), best)
    return {
        key: (float(e), float(n), float(x))
        for key, e, n, x in zip(keys, evidence[picked], sums[0][picked], sums[1][picked], strict=True)
    }


def _cumulated(rows: IntArray, columns: IntArray, values: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Sums from each day to the last, shape ``(n_keys, n_days)``."""
    flat = np.bincount(rows * shape[1] + columns, values, minlength=shape[0] * shape[1]).reshape(shape)
    return np.asarray(flat[:, ::-1].cumsum(axis=1)[:, ::-1])
