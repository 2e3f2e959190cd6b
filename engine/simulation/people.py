"""Visitors of the simulated site are households of a real panel: their histories, traits and pace are real.

What they want from a car subscription is simulated. The bridge is one number, *deal affinity*, built from the
calibrated probability that the household redeems a coupon: how much of it the site can see is fitted from how well that
probability tells real redemption on later campaigns. That is an association, never an effect; the parameter table says so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import norm

from engine.models.dataset import SequenceDataset
from engine.models.encoder import SequenceEncoder
from policies.artifact import Artifact
from policies.records import Event, Features, SubjectId
from simulator.parameters import WorldParameters
from simulator.population import Population
from simulator.streams import Purpose, normals

TRAITS = ("coupon_propensity", "deal_share", "customer_income", "customer_age")
# Real histories are long; a visitor's last events carry the state, and each is posted to the service one by one.
LAST_EVENTS = 12


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """Households as the simulator, the service and the report need them.

    Attributes
    ----------
    households
        Their ids in the panel, in the order of the population.
    population
        What the simulator draws visitors from.
    histories
        Last raw events of each household, oldest first.
    parameters
        World parameters with what the panel fits filled in.
    """

    households: tuple[str, ...]
    population: Population
    histories: tuple[tuple[Event, ...], ...]
    parameters: WorldParameters

    @classmethod
    def without_history(cls, population: Population) -> Self:
        """Made-up people, who have no events before their first visit."""
        none: tuple[Event, ...] = ()
        names = tuple(f"p{i}" for i in range(len(population)))
        return cls(names, population, (none,) * len(population), WorldParameters())

    def traits(self, person: int) -> Features:
        """Batch-scored features of one household."""
        out: dict[str, Any] = {}
        for name in (n for n in TRAITS if n in self.population.columns):
            value = self.population.columns[name][person]
            out[name] = str(value) if isinstance(value, str) else float(value)
        return out


def households_as_visitors(points: Path, models: Path, encoder_artifact: Artifact, *, seed: int) -> People:
    """Make the population from decision points, the trained models' scores and the fitted facts.

    Parameters
    ----------
    points
        Folder of decision points, with the fitted facts beside them.
    models
        Folder of the propensity comparison (``scores.parquet``, ``comparison.json``).
    encoder_artifact
        The sequence encoder that the service will run as well.
    """
    data = SequenceDataset.read(points)
    latest = _latest_rows(data)
    households = tuple(str(s) for s in data.subject[latest])
    scores = pq.read_table(models / "scores.parquet", columns=["subject", "probability"]).to_pydict()
    logit = _mean_logit(scores["subject"], scores["probability"], households)
    panel = {r["subject"]: r for r in pq.read_table(points / "_facts" / "population.parquet").to_pylist()}
    fitted = json.loads((points / "_facts" / "fitted.json").read_text())
    comparison = json.loads((models / "comparison.json").read_text())
    auc = comparison["models"][comparison["chosen"]]["test"]["roc_auc"]
    shown, shown_se = latent_correlation(auc["value"], (auc["high"] - auc["low"]) / (2 * 1.96))
    z = (logit - logit.mean()) / logit.std()
    ids = np.arange(len(households), dtype=np.int64)
    affinity = shown * z + np.sqrt(1.0 - shown**2) * normals(seed, ids, Purpose.TRAITS, 50)
    histories = tuple(_events(data, row, household) for row, household in zip(latest, households, strict=True))
    encoder = SequenceEncoder.from_artifact(encoder_artifact)
    as_of = datetime(2026, 1, 1, tzinfo=UTC)
    states = np.stack([encoder.encode_events(h, as_of=as_of) for h in histories]).astype(np.float32)
    rate = np.asarray([max(panel[h]["n_visits"], 1.0) for h in households]) / 365.0
    typical = float(np.exp(fitted["visit_rate_per_day"]["log_mean"]))
    population = Population(
        columns={
            "coupon_propensity": 1.0 / (1.0 + np.exp(-logit)),
            "deal_share": np.asarray([panel[h]["deal_share"] for h in households], dtype=np.float64),
            "customer_income": _text([panel[h]["customer_income"] for h in households]),
            "customer_age": _text([panel[h]["customer_age"] for h in households]),
        },
        vectors={"sequence": states},
        deal_affinity=affinity,
        pace=rate / typical,
        label=f"{len(households):,} households of the Complete Journey",
    )
    return People(households, population, histories, _parameters(fitted, shown, shown_se, comparison["chosen"]))


def latent_correlation(auc: float, auc_se: float) -> tuple[float, float]:
    """Correlation between a score and the latent response it ranks with this AUC, with its standard error.

    Notes
    -----
    Binormal model with equal spread: AUC = Phi(d / sqrt 2) for classes d apart; with balanced classes the
    point-biserial correlation is d / sqrt(d^2 + 4). A balanced-class figure, so a lower bound of what a rarer
    response would allow; it sets how much of the affinity is visible, not its size.
    """

    def at(a: float) -> float:
        d = np.sqrt(2.0) * norm.ppf(np.clip(a, 0.5, 0.999))
        return float(d / np.sqrt(d**2 + 4.0))

    return at(auc), abs(at(auc + auc_se) - at(auc - auc_se)) / 2.0


def _parameters(fitted: dict[str, Any], shown: float, shown_se: float, chosen: str) -> WorldParameters:
    visits = fitted["visit_rate_per_day"]
    rate = float(np.exp(visits["log_mean"]))
    panel = f"Complete Journey, {visits['n_subjects']:,} households"
    return WorldParameters().with_fitted(
        {
            "return_rate_per_day": (rate, rate * visits["log_mean_se"], f"{panel}: days with a visit, log-mean"),
            "return_rate_spread": (
                0.0,
                None,
                f"{panel}: the spread is carried by drawing households with their own pace",
            ),
            "deal_affinity_shown": (
                shown,
                shown_se,
                f"from the test AUC of {chosen} for coupon redemption: an association, offers were targeted",
            ),
        }
    )


def _latest_rows(data: SequenceDataset) -> list[int]:
    last: dict[str, int] = {}
    for row in np.argsort(data.as_of, kind="stable").tolist():
        last[str(data.subject[row])] = row
    return [last[s] for s in sorted(last)]


def _mean_logit(
    subjects: Sequence[str], probabilities: Sequence[float], households: Sequence[str]
) -> np.ndarray[Any, Any]:
    p = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-6, 1 - 1e-6)
    position = {h: i for i, h in enumerate(households)}
    row = np.asarray([position[s] for s in subjects])
    total = np.bincount(row, weights=np.log(p / (1 - p)), minlength=len(households))
    return np.asarray(total / np.bincount(row, minlength=len(households)))


def _events(data: SequenceDataset, row: int, household: str) -> tuple[Event, ...]:
    words = {name: ["", *data.manifest["vocabularies"][name]] for name in ("event_type", "item")}
    start, end = int(data.offsets[row]), int(data.offsets[row + 1])
    end_s = int(data.as_of[row].astype("datetime64[s]").astype(np.int64)) - int(data.gap_to_as_of_s[row])
    gaps = data.gap_s[start:end].astype(np.int64)
    # Gaps point back to the event before: the last event is at end_s, and the others follow from the gaps after them.
    times = end_s - np.concatenate([np.cumsum(gaps[:0:-1])[::-1], [0]]) if end > start else np.zeros(0, dtype=np.int64)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    made = [
        Event(
            id=f"{household}:{i}",
            subject=SubjectId(household),
            kind=words["event_type"][int(data.event_type[start + i])],
            item=words["item"][int(data.item[start + i])],
            value=round(float(data.value[start + i]), 4),
            at=epoch + timedelta(seconds=int(times[i])),
        )
        for i in range(end - start)
    ]
    return tuple(made[-LAST_EVENTS:])


def _text(values: Sequence[str | None]) -> np.ndarray[Any, np.dtype[np.str_]]:
    return np.asarray([v or "" for v in values], dtype=np.str_)
