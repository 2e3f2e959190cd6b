"""The likelihood of a log's visitors over what is hidden of them, with its derivatives by visitor."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import norm, qmc

from policies.records import FloatArray, IntArray
from simulator import world
from simulator.coefficients import Coefficient
from simulator.evidence import Evidence, Floats
from simulator.scenarios.car_subscription import CAR_CLASSES

# Some thousands of visitors tell the curvature; fewer make a flat direction look flatter.
_CURVATURE_SUBJECTS = 6_000
# Coprime to most strides through the chunks.
_N_NODE_SETS = 13


@dataclass(frozen=True, slots=True, eq=False)
class _Nodes:
    """Points of what is hidden.

    Attributes
    ----------
    shown, hidden
        Signs of taste by searched class and class of the offer (a row each; first of each block: no car), shape ``(12, n_nodes)``.
    z_price, z_affinity
        Shape ``(n_nodes,)``.
    """

    shown: FloatArray
    hidden: FloatArray
    z_price: FloatArray
    z_affinity: FloatArray

    @classmethod
    def drawn(cls, n_nodes: int, *, seed: int) -> _Nodes:
        """One scrambled Sobol sequence."""
        n_cars = len(CAR_CLASSES)
        points = qmc.Sobol(2 * n_cars + 2, scramble=True, rng=np.random.default_rng(seed)).random(n_nodes)
        z = norm.ppf(np.clip(points, 1e-9, 1 - 1e-9))
        largest = np.argmax(z[:, :n_cars], axis=1)
        shown = np.zeros((n_cars * (n_cars + 1), n_nodes))
        hidden = np.zeros_like(shown)
        for searched in range(n_cars):
            signs = z[:, :n_cars].copy()
            signs[np.arange(n_nodes), largest] = z[:, searched]
            signs[:, searched] = z[np.arange(n_nodes), largest]
            block = slice(searched * (n_cars + 1) + 1, (searched + 1) * (n_cars + 1))
            shown[block] = signs.T
            hidden[block] = z[:, n_cars : 2 * n_cars].T
        return cls(shown, hidden, z[:, -2], z[:, -1])

    def tables(self, v: dict[str, float]) -> tuple[dict[str, FloatArray], dict[str, Floats], Floats]:
        """Taste and its derivatives at each node, in double and in single precision, and what multiplies each visit's numbers."""
        rho = v["taste_shown"]
        rest = np.sqrt(1.0 - rho**2)
        mix = rho * self.shown + rest * self.hidden
        tables = {
            "taste": v["taste_spread"] * mix,
            "spread": mix,
            "shown": v["taste_spread"] * (self.shown - rho / rest * self.hidden),
        }
        factor = np.exp(v["price_sensitivity_spread"] * self.z_price)
        columns = [np.ones_like(factor), factor, self.z_price * factor, self.z_affinity]
        small = {name: np.ascontiguousarray(t, dtype=np.float32) for name, t in tables.items()}
        return tables, small, np.stack(columns, axis=1).astype(np.float32)


class Likelihood:
    """Log-likelihood and its derivatives of every visitor, over fixed nodes of what is hidden.

    Attributes
    ----------
    is_weighted
        Whether visits weigh what the evidence says; a search may begin without.

    Parameters
    ----------
    n_nodes
        Power of two: points of a scrambled Sobol sequence in eight normals (three signs of taste the site reads, three it does
        not, sensitivity, affinity). Signs are sorted so that the class searched for has the largest. Chunks of visitors take
        turns with differently scrambled points: what one set gets wrong is not wrong for all.
    """

    def __init__(
        self, evidence: Evidence, coefficients: tuple[Coefficient, ...], *, n_nodes: int, rows_a_chunk: int
    ) -> None:
        self.evidence, self.coefficients = evidence, coefficients
        self.is_weighted = evidence.weight is not None
        self.at = {c.name: i for i, c in enumerate(coefficients)}
        self._nodes = [_Nodes.drawn(n_nodes, seed=i) for i in range(_N_NODE_SETS)]
        self._chunks = _chunks(evidence.start, len(evidence.clicked), rows_a_chunk)

    def __call__(self, free: FloatArray) -> tuple[float, FloatArray]:
        """Sum of the log-likelihoods, and their derivatives by subject in the free form, ``(n_subjects, d)``."""
        scores = np.zeros((self.evidence.n_subjects, len(free)))
        total = self._add_chunks(free, scores, every=1)
        for i, c in enumerate(self.coefficients):
            scores[:, i] *= c.slope(float(free[i]))
        return total, scores

    def _gradient(self, free: FloatArray, *, every: int) -> FloatArray:
        """Derivatives of the sum over one in so many chunks of visitors, shape ``(d,)``."""
        scores = np.zeros((self.evidence.n_subjects, len(free)))  # pages that are not touched cost nothing
        self._add_chunks(free, scores, every=every)
        sums = [scores[first:last].sum(axis=0) for first, last, _, _ in self._chunks[::every]]
        slopes = [c.slope(float(x)) for c, x in zip(self.coefficients, free, strict=True)]
        return np.asarray(np.sum(sums, axis=0) * slopes, dtype=np.float64)

    def of_visits(self, free: FloatArray) -> FloatArray:
        """Derivative of the log-likelihood in the log-odds of each visit, shape ``(n_visits,)``: what came less what was expected."""
        out = np.zeros(len(self.evidence.clicked))
        self._add_chunks(free, np.zeros((self.evidence.n_subjects, len(free))), every=1, of_visits=out)
        return out

    def _add_chunks(
        self, free: FloatArray, scores: FloatArray, *, every: int, of_visits: FloatArray | None = None
    ) -> float:
        """Add derivatives in the natural form to the rows of some visitors; the sum of their log-likelihoods."""
        v = {c.name: c.natural(float(x)) for c, x in zip(self.coefficients, free, strict=True)}
        total = 0.0
        e = self.evidence
        lag_days = np.arange(e.lags.shape[1])
        faded = v["fatigue_decay_per_day"] ** lag_days
        slope = lag_days * v["fatigue_decay_per_day"] ** np.maximum(lag_days - 1, 0)
        effects = np.asarray([v[n] for n in e.linear_names], dtype=np.float32)
        fading = np.stack([faded, slope], axis=1).astype(np.float32)
        sets = [nodes.tables(v) for nodes in self._nodes[: len(self._chunks)]]
        for i in range(0, len(self._chunks), every):
            first, last, row_first, row_last = self._chunks[i]
            tables, small, basis = sets[i % len(sets)]
            part = slice(row_first, row_last)
            fatigue = e.lags[part].astype(np.float32) @ fading
            fixed = e.linear[part] @ effects - np.float32(v["fatigue_per_view"]) * fatigue[:, 0]
            value, of_each = self._chunk(v, scores, slice(first, last), part, fixed, fatigue, small, tables, basis)
            total += value
            if of_visits is not None:
                of_visits[part] = of_each
        return total

    def curvature(self, free: FloatArray, steps: FloatArray) -> FloatArray:
        """Minus the second derivatives of the log-likelihood in the free form, by differences of scores, ``(d, d)``.

        Parameters
        ----------
        steps
            How far to go in each coefficient, shape ``(d,)``; 0: its row is left at nought.

        Notes
        -----
        On a spread of chunks where the log is long: their share of the visitors is known, and some thousands say enough.
        """
        n = self.evidence.n_subjects
        every = max(n // _CURVATURE_SUBJECTS, 1)
        counted = sum(last - first for first, last, _, _ in self._chunks[::every])
        out = np.zeros((len(free), len(free)))
        for i in np.flatnonzero(steps):
            step = np.zeros(len(free))
            step[i] = steps[i]
            ends = [self._gradient(free + sign * step, every=every) for sign in (1.0, -1.0)]
            out[i] = (ends[1] - ends[0]) / (2.0 * steps[i])
        return np.asarray(0.5 * (out + out.T) * (n / counted), dtype=np.float64)

    def _chunk(
        self, v: dict[str, float], scores: FloatArray, who: slice, part: slice, fixed: Floats,
        fatigue: Floats, small: dict[str, Floats], tables: dict[str, FloatArray], basis: Floats,
    ) -> tuple[float, Floats]:  # fmt: skip
        e, at = self.evidence, self.at
        start = e.start[who] - part.start
        owner = np.repeat(np.arange(len(start)), np.diff(np.append(start, part.stop - part.start)))
        group = e.group[part]
        price, discount = e.price[part], e.discount[part]
        design = np.stack(
            [fixed, -np.float32(v["price_sensitivity"]) * price, np.float32(v["affinity_hidden"]) * discount], axis=1
        )
        log_odds = design @ basis[:, [0, 1, 3]].T
        log_odds += small["taste"][group]
        clicked = e.clicked[part][:, None]
        chance = 1.0 / (1.0 + np.exp(-log_odds))
        likelihood = np.log(np.where(clicked > 0, chance, 1.0 - chance) + np.float32(1e-30))
        slope = clicked - chance
        signs = np.flatnonzero(e.signs[part] >= 0)
        signed = e.signs[part][signs][:, None].astype(np.float32)
        contract = 1.0 / (1.0 + np.exp(-(log_odds[signs] + np.float32(v["convert_base"] - v["click_base"]))))
        likelihood[signs] += np.log(np.where(signed > 0, contract, 1.0 - contract) + np.float32(1e-30))
        slope_sign = signed - contract
        slope[signs] += slope_sign
        per_node = np.add.reduceat(likelihood, start, axis=0).astype(np.float64)
        stay = self._stay(v, who, tables)
        if stay is not None:
            per_node[stay.local] += stay.likelihood
        per_node -= np.log(per_node.shape[1])
        top = logsumexp(per_node, axis=1)
        posterior = np.exp(per_node - top[:, None])
        if e.weight is None or not self.is_weighted:
            value, of_row = float(top.sum()), posterior.astype(np.float32)[owner]
        else:
            value, posterior, of_row = _weighted(likelihood, top, posterior, start, e.weight[part])
        slope *= of_row
        sums = slope @ basis
        self._add(scores, who, start, sums[:, :1] * e.linear[part], [at[n] for n in e.linear_names])
        by_name = {
            "price_sensitivity": -price * sums[:, 1],
            "price_sensitivity_spread": -np.float32(v["price_sensitivity"]) * price * sums[:, 2],
            "affinity_hidden": discount * sums[:, 3],
            "fatigue_per_view": -fatigue[:, 0] * sums[:, 0],
            "fatigue_decay_per_day": -np.float32(v["fatigue_per_view"]) * fatigue[:, 1] * sums[:, 0],
            "taste_spread": np.einsum("nr,nr->n", slope, small["spread"][group]),
            "taste_shown": np.einsum("nr,nr->n", slope, small["shown"][group]),
        }
        self._add(scores, who, start, np.stack(list(by_name.values()), axis=1), [at[n] for n in by_name])
        moved = (slope_sign * of_row[signs]).sum(axis=1)
        moved = np.bincount(owner[signs], weights=moved, minlength=len(start))
        scores[who, at["convert_base"]] += moved
        scores[who, at["click_base"]] -= moved
        if stay is not None:
            self._add_stay(scores, who, stay, posterior[stay.local], tables)
        return value, np.asarray(sums[:, 0], dtype=np.float32)

    @staticmethod
    def _add(scores: FloatArray, who: slice, start: IntArray, rows: NDArray[Any], columns: list[int]) -> None:
        scores[who.start : who.stop, columns] += np.add.reduceat(rows, start, axis=0)

    def _stay(self, v: dict[str, float], who: slice, tables: dict[str, FloatArray]) -> Stay | None:
        e = self.evidence
        mine = slice(*np.searchsorted(e.contract, [who.start, who.stop]))
        if mine.start == mine.stop:
            return None
        names = [n for n in e.hazard_names if n in self.at]
        columns = e.hazard[mine][:, [e.hazard_names.index(n) for n in names]]
        effects = np.asarray([np.log(v[n]) if n == "cancel_per_day" else v[n] for n in names])
        taste = tables["taste"][e.hazard_group[mine]]
        log_hazard = (columns @ effects)[:, None] + v["cancel_per_taste"] * taste
        ends = e.is_cancelled[mine].astype(np.float64)[:, None]
        cared_end = e.is_cared_at_end[mine].astype(np.float64)[:, None]
        without, cared = (
            np.minimum(np.exp(log_hazard + x), world.MAX_HAZARD) for x in (0.0, v["retention_offer_effect"])
        )
        # The day of leaving counts among the days at risk: it is taken out there and put in as the event.
        days_without = e.days[mine][:, :1] - ends * (1.0 - cared_end)
        days_cared = e.days[mine][:, 1:] - ends * cared_end
        hazard_at_end = np.where(cared_end > 0, cared, without)
        likelihood = days_without * np.log1p(-without) + days_cared * np.log1p(-cared) + ends * np.log(hazard_at_end)
        slope_cared = ends * cared_end - days_cared * cared / (1.0 - cared)
        slope = ends * (1.0 - cared_end) - days_without * without / (1.0 - without) + slope_cared
        return Stay(
            e.contract[mine] - who.start, likelihood, slope, slope_cared, columns, names, taste, e.hazard_group[mine], v
        )

    def _add_stay(
        self, scores: FloatArray, who: slice, stay: Stay, posterior: FloatArray, tables: dict[str, FloatArray]
    ) -> None:
        rows, at, v = who.start + stay.local, self.at, stay.values
        slope = stay.slope * posterior
        total = slope.sum(axis=1)
        for j, name in enumerate(stay.names):
            # The base hazard is positive: its derivative is that of its logarithm over itself.
            scores[rows, at[name]] += total * stay.columns[:, j] / (v[name] if name == "cancel_per_day" else 1.0)
        scores[rows, at["cancel_per_taste"]] += (slope * stay.taste).sum(axis=1)
        scores[rows, at["retention_offer_effect"]] += (stay.slope_cared * posterior).sum(axis=1)
        weight = v["cancel_per_taste"]
        scores[rows, at["taste_spread"]] += weight * (slope * tables["spread"][stay.group]).sum(axis=1)
        scores[rows, at["taste_shown"]] += weight * (slope * tables["shown"][stay.group]).sum(axis=1)


def _weighted(
    likelihood: Floats, top: FloatArray, posterior: FloatArray, start: IntArray, weight: Floats
) -> tuple[float, FloatArray, Floats]:
    """Weigh what each visit adds to the log-likelihood of the visits before it.

    Parameters
    ----------
    likelihood
        Of each visit at each node, shape ``(n, n_nodes)``.
    top, posterior
        Log-likelihood of all of a visitor's visits and of the contract, and its share by node.

    Returns
    -------
    tuple
        The sum; the share by node of what follows the last visit; that of each visit, shape ``(n, n_nodes)``.

    Notes
    -----
    With ``l_j`` the log-likelihood of the first j visits the sum is ``w_1 l_1 + w_2 (l_2 - l_1) + …``. Given the past and the offer,
    what a visit adds has slope nought on average under the right laws, so any weight known by then leaves the estimates
    consistent. Weights inside the mean over nodes would not: they make visitors look more different than they are.
    """
    bounds = np.append(start, len(likelihood))
    lengths = np.diff(bounds)
    # Converted before they are added up: a cumulative sum that converts on the way takes eight times as long.
    sums = np.cumsum(likelihood.astype(np.float64), axis=0)
    sums -= np.repeat(sums[start] - likelihood[start], lengths, axis=0)
    largest = sums.max(axis=1)
    shares = np.exp((sums - largest[:, None]).astype(np.float32))
    mass = shares.sum(axis=1)
    so_far = largest + np.log(mass) - np.log(shares.shape[1])
    last = bounds[1:] - 1
    drop = weight.astype(np.float64) - np.append(weight[1:], 0.0)
    drop[last] = weight[last]
    so_far[last] = top
    shares *= (drop / mass).astype(np.float32)[:, None]
    shares[last] = posterior * weight[last][:, None]
    value = float(drop @ so_far)
    # Each visit is in the sums of all that follow it: their shares added up from the visitor's last visit backwards.
    total = np.cumsum(shares[::-1].astype(np.float64), axis=0)[::-1]
    after = np.append(total, np.zeros((1, total.shape[1])), axis=0)[bounds[1:]]
    total = total - np.repeat(after, lengths, axis=0)
    return value, shares[last], total.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Stay:
    """Likelihood of the contracts of a chunk at each node, shape ``(m, n_nodes)``, and its slopes in the log-hazard."""

    local: IntArray
    likelihood: FloatArray
    slope: FloatArray
    slope_cared: FloatArray
    columns: FloatArray
    names: list[str]
    taste: FloatArray
    group: IntArray
    values: dict[str, float]


def _chunks(start: IntArray, n_rows: int, rows_a_chunk: int) -> list[tuple[int, int, int, int]]:
    """Subjects and rows of each chunk: small enough that its nodes stay in the processor's cache."""
    edges = [0]
    bounds = np.append(start, n_rows)
    while edges[-1] < len(start):
        goal = bounds[edges[-1]] + rows_a_chunk
        edges.append(max(int(np.searchsorted(bounds, goal, side="right")) - 1, edges[-1] + 1))
    return [(a, b, int(bounds[a]), int(bounds[b])) for a, b in itertools.pairwise(edges)]
