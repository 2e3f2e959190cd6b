"""Rewards and outcomes: whether they come, once, in time, with values and times that can be."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from engine.learner.ticks import MAX_REWARD
from engine.monitoring.cells import DAY_HOURS, Table
from engine.monitoring.evidence import smallest_of, stability_index
from engine.monitoring.records import Check
from engine.monitoring.usual import LEAST_FACTS, is_beyond, largest_share, latest, of_key, quantile_bin
from engine.monitoring.window import Window
from policies.records import FloatArray

# Facts that a share is read from: a few dozen tell a gross fault within hours.
_ENOUGH = 60


def kinds_of(table: Table) -> list[str]:
    """Kinds of facts in cells whose key begins with the kind."""
    return sorted({key[0] for key in table.keys})


def duplicates(window: Window) -> Check:
    """Facts that repeat one of the same decision (or person), kind and value under another id."""
    told = "{count:.0f} of the last {n:.0f} facts of kind {kind!r} repeat an earlier one under another id."
    return _shares(window, "duplicates", "arrived", lambda t: t.b, allowed=window.limits.duplicate_share, told=told)


def unattributed(window: Window) -> Check:
    """Outcomes of people who have seen no offer within the window."""
    told = "{count:.0f} of the last {n:.0f} outcomes of kind {kind!r} belong to nobody who has seen an offer in time."
    return _shares(
        window, "unattributed", "attributed", lambda t: t.a, allowed=window.limits.unattributed_share, told=told
    )


def _shares(
    window: Window, alarm: str, what: str, counted: Callable[[Table], FloatArray], *, allowed: float, told: str
) -> Check:
    """Share of each kind against the largest of any day before, plus what is allowed."""
    if not window.has_reference:
        return Check(alarm, "unknown", "What is usual is known after three days.")
    found: list[tuple[bool, float, str, float]] = []
    for kind in kinds_of(window.today(what)):
        now = latest(of_key(window.cells[what], kind), window, _ENOUGH)
        count, n = float(counted(now).sum()), float(now.n.sum())
        if n < LEAST_FACTS:
            continue
        days = [of_key(window.on(day, what), kind) for day in window.days]
        limit = allowed + largest_share((float(counted(d).sum()), float(d.n.sum())) for d in days)
        found.append((is_beyond(count, n, limit), count / n, told.format(count=count, n=n, kind=kind), limit))
    if not found:
        return Check(alarm, "unknown", "Too few facts have come lately to tell.")
    found.sort(key=lambda f: (not f[0], -f[1]))
    is_bad, share, sentence, limit = found[0]
    lines = tuple(f[2] for f in found if f[0])
    return Check(alarm, "ringing" if is_bad else "ok", sentence, share, limit, lines)


def silence(window: Window) -> Check:
    """Kinds of which nothing has come for longer than they ever paused."""
    decisions, arrived = window.cells["choice"], window.cells["arrived"]
    if not window.has_reference:
        return Check("silence", "unknown", "What is usual is known after three days.")
    n_before = float(window.before("choice").n.sum())
    bad: list[tuple[float, str, float]] = []
    largest = 0.0
    for kind in kinds_of(window.before("arrived")):
        mine = of_key(arrived, kind)
        hours = np.sort(mine.hour[mine.n > 0])
        rate = float(of_key(window.before("arrived"), kind).n.sum()) / n_before
        longest = max((_decided(decisions, int(a) + 1, int(b)) for a, b in pairwise(hours)), default=0.0)
        quiet = _decided(decisions, int(hours[-1]) + 1, window.end)
        missing = rate * quiet
        largest = max(largest, missing)
        # Outcomes of a nightly run come in one hour of the day: a pause of twice the longest so far is none of those.
        if missing >= window.limits.silence_facts and quiet > 2 * longest:
            bad.append((missing, kind, quiet))
    if not bad:
        return Check("silence", "ok", "Facts of all kinds still come.", largest, window.limits.silence_facts)
    bad.sort(reverse=True)
    where = tuple(f"{kind}: {missing:.0f} should have come in {quiet:.0f} decisions" for missing, kind, quiet in bad)
    told = f"Nothing of kind {bad[0][1]!r} has come for {bad[0][2]:.0f} decisions; about {bad[0][0]:.0f} should have."
    return Check("silence", "ringing", told, largest, window.limits.silence_facts, where)


def _decided(decisions: Table, first: int, end: int) -> float:
    return float(decisions.n[(decisions.hour >= first) & (decisions.hour < end)].sum())


def values(window: Window) -> Check:
    """Values beyond reason, and kinds whose values have changed as a whole."""
    limit = window.limits.poison_factor
    bad: list[str] = []
    largest = 0.0
    # Two days: whoever looks once a day must not miss the one value that came in between.
    lately = window.cells["value"].between(window.day - DAY_HOURS, window.end)
    for kind in kinds_of(lately):
        now = _bins(of_key(lately, kind))
        before = _bins(of_key(window.before("value"), kind))
        sizes = _sizes(before)
        usual = 2**0.5 * smallest_of(quantile_bin(sizes, 0.99)) if sum(sizes.values()) >= LEAST_FACTS else 0.0
        top = max(_sizes(now))
        if usual:
            largest = max(largest, smallest_of(top) / usual)
        if smallest_of(top) >= MAX_REWARD or (usual and smallest_of(top) > limit * usual):
            n = sum(count for place, count in _sizes(now).items() if smallest_of(place) > limit * usual)
            bad.append(f"{kind}: {n:.0f} value(s) of {smallest_of(top):,.4g} or more; usual are up to {usual:,.4g}")
        elif usual and _has_changed(window, kind, _bins(of_key(window.today("value"), kind)), before):
            bad.append(f"{kind}: values are distributed otherwise than on any day before")
    told = f"Values are not those of before: {bad[0]}." if bad else "Values are in the range of before."
    return Check("values", "ringing" if bad else "ok", told, largest or None, limit, tuple(bad))


def _has_changed(window: Window, kind: str, now: dict[int, float], before: dict[int, float]) -> bool:
    if not window.has_reference or sum(now.values()) < _ENOUGH:
        return False
    days = [_bins(of_key(window.on(day, "value"), kind)) for day in window.days]
    usual = max((_distance(day, before) for day in days if sum(day.values()) >= LEAST_FACTS), default=0.0)
    return _distance(now, before) > max(window.limits.drift_psi, 2 * usual)


def _distance(now: dict[int, float], before: dict[int, float]) -> float:
    places = sorted(now.keys() | before.keys())
    return stability_index([now.get(p, 0.0) for p in places], [before.get(p, 0.0) for p in places])


def _bins(table: Table) -> dict[int, float]:
    return {int(place): float(sums[0]) for place, sums in table.by(lambda key: key[1]).items()}


def _sizes(bins: dict[int, float]) -> dict[int, float]:
    out: dict[int, float] = {}
    for place, n in bins.items():
        out[abs(place)] = out.get(abs(place), 0.0) + n
    return out


def clock(window: Window) -> Check:
    """Facts before their decision or ahead of the ledger, and decisions that go back in time."""
    limit = window.limits.clock_share
    bad: list[tuple[float, str]] = []
    largest, n_all = 0.0, 0.0
    for source in kinds_of(window.today("clock")):
        now = latest(of_key(window.cells["clock"], source), window, _ENOUGH)
        n = float(now.n.sum())
        n_all += n
        for count, words in ((float(now.a.sum()), "behind"), (float(now.b.sum()), "ahead")):
            share = count / n if n else 0.0
            largest = max(largest, share)
            if share > limit and count >= window.limits.clock_facts:
                bad.append((share, f"{source}s: {count:.0f} of {n:.0f} are {words}"))
    if not n_all:
        return Check("clock", "unknown", "No facts have come lately.")
    bad.sort(reverse=True)
    told = f"Times cannot be true: {bad[0][1]}." if bad else "Times of facts fit those of decisions."
    return Check("clock", "ringing" if bad else "ok", told, largest, limit, tuple(line for _, line in bad))


def delay(window: Window) -> Check:
    """How long after their decision facts happen, and how many come when its window is over."""
    limit = window.limits.delay_factor
    if not window.has_reference:
        return Check("delay", "unknown", "What is usual is known after three days.")
    bad: list[str] = []
    largest = 0.0
    for kind in kinds_of(window.before("delay")):
        now = _bins(latest(of_key(window.cells["delay"], kind), window, _ENOUGH))
        if sum(now.values()) < LEAST_FACTS:
            continue
        days = [_bins(of_key(window.on(day, "delay"), kind)) for day in window.days]
        usual = max((_median_s(d) for d in days if sum(d.values()) >= LEAST_FACTS), default=0.0)
        median = _median_s(now)
        if usual:
            largest = max(largest, median / usual)
        # A minute is no delay, however many times longer than nothing it is.
        if usual and median > limit * usual and median > 60:
            bad.append(f"{kind}: half come later than {median:,.0f} s; on no day before later than {usual:,.0f} s")
        come = latest(of_key(window.cells["arrived"], kind), window, _ENOUGH)
        usually = largest_share(
            (float(d.c.sum()), float(d.n.sum())) for d in (of_key(window.on(x, "arrived"), kind) for x in window.days)
        )
        late, n = float(come.c.sum()), float(come.n.sum())
        if is_beyond(late, n, usually + window.limits.late_share):
            bad.append(f"{kind}: {late:.0f} of {n:.0f} came after the window of their decision")
    told = f"Facts come later than before: {bad[0]}." if bad else "Facts come as soon as before."
    return Check("delay", "ringing" if bad else "ok", told, largest or None, limit, tuple(bad))


def _median_s(bins: dict[int, float]) -> float:
    return smallest_of(quantile_bin(bins, 0.5)) if bins else 0.0
