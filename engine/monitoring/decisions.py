"""A stretch of decisions as sums: what was drawn against what should have been, features, choice, rungs."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from engine.monitoring.cells import DAY_HOURS, HOUR_US, MISSING, Sums, key_of
from engine.monitoring.evidence import bin_of, fingerprint, grouped
from policies.records import FloatArray, IntArray

# More texts than this in one feature are taken by the hash of the text.
MAX_TEXTS = 24
_HASHES = 16
_CERTAIN = 1.0 - 1e-9
# Rungs that answer as somebody asked them to.
CHOSEN_RUNGS = ("policy", "apprentice")
_NO_CHOICE_MEANT = ("apprentice",)


@dataclass(slots=True)
class Rows:
    """Decisions of one placement, in ledger order; every list has one value a decision."""

    at_us: list[int] = field(default_factory=list)
    policies: list[str] = field(default_factory=list)
    experiments: list[str | None] = field(default_factory=list)
    variants: list[str | None] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def add(self, at_us: int, policy: str, experiment: str | None, variant: str | None, body: bytes) -> None:
        """Add one."""
        self.at_us.append(at_us)
        self.policies.append(policy)
        self.experiments.append(experiment)
        self.variants.append(variant)
        self.bodies.append(orjson.loads(body))


def tally(
    sums: Sums,
    placement: str,
    rows: Rows,
    *,
    many: set[str],
    is_baseline_meant: Callable[[int, str | None, str | None], bool],
) -> None:
    """Add the decisions to the sums.

    Parameters
    ----------
    many
        Features whose texts are taken by hash; grows.
    is_baseline_meant
        Whether at a time, in an experiment and a variant, the baseline order is what should answer.
    """
    hours = np.asarray(rows.at_us, dtype=np.int64) // HOUR_US
    offers, drawn, p = _distributions(rows.bodies)
    chosen = np.zeros_like(p)
    chosen[np.arange(len(p)), drawn] = 1.0
    spread = p * (1.0 - p)
    _offers(sums, placement, rows, hours, offers, chosen, p, spread)
    entropy, certain, could = _choice(rows.bodies, p)
    for hour, policy, *found in _by(hours, rows.policies, np.ones(len(p)), entropy, certain, could):
        sums.add(placement, hour, "choice", key_of(policy), *found)
    _rungs(sums, placement, rows, hours, is_baseline_meant)
    _features(sums, placement, rows.bodies, hours, offers, (chosen, p, spread), (entropy, certain, could), many)


def _distributions(bodies: Sequence[dict[str, Any]]) -> tuple[list[str], IntArray, FloatArray]:
    """All offers that were eligible anywhere, which one each decision drew, and its distribution over them: ``(n,)``, ``(n, k)``."""
    groups: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, body in enumerate(bodies):
        groups[tuple(body["o"])].append(i)
    places: dict[str, int] = {}
    for ids in groups:
        for offer in ids:
            places.setdefault(offer, len(places))
    # Not eligible is nan until the sums of what was eligible are made.
    p = np.full((len(bodies), len(places)), np.nan)
    drawn = np.zeros(len(bodies), dtype=np.int64)
    for ids, members in groups.items():
        columns = np.asarray([places[o] for o in ids])
        p[np.asarray(members)[:, None], columns] = [bodies[i]["p"] for i in members]
        drawn[members] = columns[[bodies[i]["c"] for i in members]]
    return list(places), drawn, p


def _offers(
    sums: Sums,
    placement: str,
    rows: Rows,
    hours: IntArray,
    offers: Sequence[str],
    chosen: FloatArray,
    p: FloatArray,
    spread: FloatArray,
) -> None:
    """Sums by policy and offer; afterwards what is not eligible has probability zero."""
    eligible = ~np.isnan(p)
    p[~eligible] = 0.0
    spread[~eligible] = 0.0
    for hour, policy, *found in _by(hours, rows.policies, chosen, p, spread, eligible.astype(np.float64)):
        drawn, expected, variance, n = found
        for k in np.flatnonzero(n).tolist():
            sums.add(placement, hour, "offer", key_of(policy, offers[k]), drawn[k], expected[k], variance[k], n[k])
    for hour, reasons in _reasons(hours, rows.bodies).items():
        for (offer, reason), count in reasons.items():
            sums.add(placement, hour, "excluded", key_of(offer, reason), count)


def _reasons(hours: IntArray, bodies: Sequence[dict[str, Any]]) -> dict[int, Counter[tuple[str, str]]]:
    out: defaultdict[int, Counter[tuple[str, str]]] = defaultdict(Counter)
    for hour, body in zip(hours.tolist(), bodies, strict=True):
        if body["d"]:
            out[hour].update(body["d"].items())
    return out


def _choice(bodies: Sequence[dict[str, Any]], p: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Entropy as a share of the largest, whether there was no choice, and whether there could have been one; each ``(n,)``."""
    n_eligible = np.asarray([len(b["o"]) for b in bodies], dtype=np.float64)
    # An offer that is left out by a rule could be a choice; one that another slot of the page shows could not.
    n_known = n_eligible + np.asarray(
        [sum(r != "placed" for r in b["d"].values()) if b["d"] else 0 for b in bodies], dtype=np.float64
    )
    meant = np.asarray([b["g"] not in _NO_CHOICE_MEANT for b in bodies])
    could = ((n_known >= 2) & meant).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(p > 0, p * np.log(p), 0.0).sum(axis=1) / np.log(n_eligible)
    entropy = np.where(n_eligible >= 2, entropy, 0.0) * could
    certain = (p.max(axis=1) >= _CERTAIN) * could
    return entropy, certain, could


def _rungs(
    sums: Sums,
    placement: str,
    rows: Rows,
    hours: IntArray,
    is_baseline_meant: Callable[[int, str | None, str | None], bool],
) -> None:
    counts: Counter[tuple[int, str, bool]] = Counter()
    for hour, at_us, experiment, variant, body in zip(
        hours.tolist(), rows.at_us, rows.experiments, rows.variants, rows.bodies, strict=True
    ):
        rung = body["g"]
        is_fine = rung in CHOSEN_RUNGS or (rung == "baseline" and is_baseline_meant(at_us, experiment, variant))
        counts[hour, rung, is_fine] += 1
    for (hour, rung, is_fine), n in counts.items():
        sums.add(placement, hour, "rung", key_of(rung, "fine" if is_fine else "fault"), n)


def _features(
    sums: Sums,
    placement: str,
    bodies: Sequence[dict[str, Any]],
    hours: IntArray,
    offers: Sequence[str],
    draws: tuple[FloatArray, FloatArray, FloatArray],
    choice: tuple[FloatArray, FloatArray, FloatArray],
    many: set[str],
) -> None:
    contexts = [b["x"] for b in bodies]
    names = sorted(set().union(*contexts)) if contexts else []
    days = hours - hours % DAY_HOURS
    ones = np.ones(len(bodies))
    for name in names:
        values = [x.get(name) for x in contexts]
        bins, numbers = _bins(name, values, many)
        if name in many:
            sums.add(placement, 0, "many", key_of(name), 0)
        for hour, label, *found in _by(hours, bins, ones, *choice):
            sums.add(placement, hour, "feature", key_of(name, label), *found)
        if numbers is not None:
            is_there = ~np.isnan(numbers)
            marks = [str(f) for f in fingerprint(numbers[is_there]).tolist()]
            for hour, label, n in _by(hours[is_there], marks, ones[is_there]):
                sums.add(placement, hour, "finger", key_of(name, label), n)
        for day, label, drawn, expected, variance in _by(days, bins, *draws):
            for k in np.flatnonzero(variance).tolist():
                sums.add(placement, day, "leak", key_of(name, label, offers[k]), drawn[k], expected[k], variance[k])


def _bins(name: str, values: Sequence[Any], many: set[str]) -> tuple[list[str], NDArray[np.float64] | None]:
    """Bin of each value, and the numbers where the feature is one (nan where it is missing)."""
    types = set(map(type, values)) - {type(None)}
    if str in types:
        texts = {v for v in values if isinstance(v, str)}
        if name in many or len(texts) > MAX_TEXTS:
            many.add(name)
            hashed = {t: f"#{zlib.crc32(t.encode()) % _HASHES}" for t in texts}
            return [hashed[v] if isinstance(v, str) else MISSING if v is None else "number" for v in values], None
        return [(v or MISSING) if isinstance(v, str) else MISSING if v is None else "number" for v in values], None
    if types == {bool}:
        return [MISSING if v is None else "true" if v else "false" for v in values], None
    numbers = np.asarray([np.nan if v is None else float(v) for v in values])
    is_there = ~np.isnan(numbers)
    bins = np.zeros(len(numbers), dtype=np.int64)
    bins[is_there] = bin_of(numbers[is_there])
    return [f"~{b}" if there else MISSING for b, there in zip(bins.tolist(), is_there.tolist(), strict=True)], numbers


def _by(hours: IntArray, labels: Sequence[str], *columns: FloatArray) -> Iterable[tuple[Any, ...]]:
    """Sums of columns by hour and label: ``(hour, label, sum, sum, …)``."""
    codes: dict[str, int] = {}
    of_label = np.asarray([codes.setdefault(label, len(codes)) for label in labels], dtype=np.int64)
    if not len(of_label):
        return
    names = list(codes)
    whole = hours * len(names) + of_label
    kinds, groups = np.unique(whole, return_inverse=True)
    found = grouped(groups, len(kinds), *columns)
    for i, kind in enumerate(kinds.tolist()):
        yield (kind // len(names), names[kind % len(names)], *(column[i] for column in found))
