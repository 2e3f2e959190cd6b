"""Choice: which rung answers, how much is explored, who has no choice, which offers are gone."""

from __future__ import annotations

from collections import Counter

from engine.monitoring.records import Check
from engine.monitoring.usual import is_beyond, of_key
from engine.monitoring.window import Window

_LEAST_OF_POLICY = 200
_LEAST_OF_SEGMENT = 100
# A policy whose choices were as certain as this has nothing to lose.
_LEAST_ENTROPY = 0.05
# An offer that fewer were eligible for is one of a few visitors.
_LEAST_ELIGIBLE = 0.05


def fallbacks(window: Window) -> Check:
    """Decisions that their policy did not answer, by rung."""
    rungs = window.now("rung").by(lambda key: key)
    n = sum(float(v[0]) for v in rungs.values())
    limit = window.limits.fallback_share
    if not n:
        return Check("fallbacks", "unknown", "Nobody has been answered lately.")
    faults = {key[0]: float(v[0]) for key, v in rungs.items() if key[1] == "fault"}
    count = sum(faults.values())
    where = tuple(f"{rung}: {x:.0f} of {n:.0f}" for rung, x in sorted(faults.items(), key=lambda i: -i[1]))
    told = (
        f"{count:.0f} of {n:.0f} recent decisions ({count / n:.1%}) were answered by a lower rung."
        if count
        else "Every recent decision was answered by its policy."
    )
    is_bad = is_beyond(count, n, limit)
    return Check("fallbacks", "ringing" if is_bad else "ok", told, count / n, limit, where)


def collapse(window: Window) -> Check:
    """Entropy of each policy's choices against what it was; versions of one name follow each other."""
    limit = window.limits.collapse_share
    if not window.has_reference:
        return Check("collapse", "unknown", "What is usual is known after three days.")
    now = window.now("choice").by(lambda key: key[0].partition("@")[0])
    before = window.before("choice").by(lambda key: key[0].partition("@")[0])
    bad: list[str] = []
    least = None
    for name in sorted(now.keys() & before.keys()):
        if now[name][3] < _LEAST_OF_POLICY or before[name][3] < _LEAST_OF_POLICY:
            continue
        entropy, usual = float(now[name][1] / now[name][3]), float(before[name][1] / before[name][3])
        if usual < _LEAST_ENTROPY:
            continue
        left = entropy / usual
        least = left if least is None else min(least, left)
        if left < limit:
            bad.append(f"{name}: entropy {entropy:.3f} of the largest possible, {usual:.3f} before")
    told = f"A policy hardly explores any more: {bad[0]}." if bad else "Policies explore as much as before."
    return Check("collapse", "ringing" if bad else "ok", told, least, limit, tuple(bad))


def support(window: Window) -> Check:
    """Segments whose visitors have no choice, while most others have one."""
    limit = window.limits.support_share
    choice = window.today("choice")
    n = float(choice.c.sum())
    if n < _LEAST_OF_SEGMENT:
        return Check("support", "unknown", f"{n:.0f} decisions with a choice are too few to tell.")
    if choice.b.sum() > 0.5 * n:
        return Check("support", "off", "Most decisions leave no choice: the placement shows what it is told to.")
    bad: list[tuple[float, str]] = []
    largest = 0.0
    recent = window.now("feature").by(lambda key: key)
    for (name, label), found in window.today("feature").by(lambda key: key).items():
        # Recent ones say what is so now, the day's are enough to say it.
        _, _, certain, could = recent.get((name, label), found)
        if could < _LEAST_OF_SEGMENT:
            _, _, certain, could = found
        if could < _LEAST_OF_SEGMENT or (name in window.many and not label.startswith("#")):
            continue
        share = float(certain / could)
        largest = max(largest, share)
        if share > limit:
            bad.append((float(could), f"{name} = {label}: {certain:.0f} of {could:.0f} decisions leave no choice"))
    bad.sort(reverse=True)
    told = f"A segment has no choice: {bad[0][1]}." if bad else "Every segment has a choice."
    return Check("support", "ringing" if bad else "ok", told, largest, limit, tuple(line for _, line in bad))


def vanished(window: Window) -> Check:
    """Offers of the catalogue that were eligible on every day before and are for nobody now."""
    if not window.has_reference:
        return Check("vanished", "unknown", "What is usual is known after three days.")
    if window.n_recent < _LEAST_OF_POLICY:
        return Check("vanished", "unknown", f"{window.n_recent:.0f} recent decisions are too few to tell.")
    now = window.now("offer").by(lambda key: key[1])
    shares: list[dict[str, float]] = []
    for day in window.days:
        n = float(window.on(day, "choice").n.sum())
        shares.append({offer: float(v[3]) / n for offer, v in window.on(day, "offer").by(lambda key: key[1]).items()})
    bad: list[str] = []
    for offer in sorted(set(shares[0]).intersection(*shares)):
        if min(s[offer] for s in shares) < _LEAST_ELIGIBLE or (offer in now and now[offer][3] > 0):
            continue
        if not window.watched.is_offered(offer, window.as_of):
            continue  # taken out of the catalogue, ended or sold out: somebody has said so
        why = Counter({k[1]: float(v[0]) for k, v in of_key(window.now("excluded"), offer).by(lambda k: k).items()})
        reasons = ", ".join(f"{reason} {n:.0f}" for reason, n in why.most_common(3)) or "it is not in the request"
        bad.append(f"{offer}: eligible in none of {window.n_recent:.0f} decisions ({reasons})")
    told = f"An offer is gone: {bad[0]}." if bad else "Every offer of the catalogue is still eligible for somebody."
    return Check("vanished", "ringing" if bad else "ok", told, float(len(bad)), 1.0, tuple(bad))
