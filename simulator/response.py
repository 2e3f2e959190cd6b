"""How visitors answer to offers, from a log: one likelihood of each visitor's clicks, contract and stay, over what is hidden.

A visitor's clicks, the contract that follows a click and the days until it is cancelled share what the log does not show: taste for
car classes, sensitivity to prices and the part of deal affinity that no trait tells. The likelihood of a visitor is the mean over
fixed nodes of these, so that spreads between visitors are told from chance within them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import chi2, norm, qmc

from policies.errors import InvalidInputError
from policies.records import BoolArray, FloatArray, IntArray
from simulator import world
from simulator.coefficients import Coefficient, moved, positive, share
from simulator.evidence import Evidence, Floats, evidence_of
from simulator.rollouts import Rollout
from simulator.scenarios.car_subscription import CAR_CLASSES, Scenario

# Some thousands of visitors tell the curvature; fewer make a flat direction look flatter.
_CURVATURE_SUBJECTS = 6_000
_MAX_WEIGHTED_STEPS = 40
# Coprime to most strides through the chunks.
_N_NODE_SETS = 13
_LEAST_VIEWS = 100
# Prior means are round numbers, not the values of the reference site: what a log does not say is not known.
COEFFICIENTS = (
    Coefficient("click_base", -1.5, 1.5),
    Coefficient("no_offer_penalty", -0.5, 1.5),
    Coefficient("discount_appeal", 1.5, 3.0),
    Coefficient("perk_appeal", 0.3, 0.7),
    Coefficient("term_dislike", 0.02, 0.05),
    Coefficient("engagement_gain", 0.0, 0.3),
    Coefficient("fatigue_per_view", 0.2, 0.3),
    share("fatigue_decay_per_day", 0.8, 0.8),
    positive("price_sensitivity", 0.7, 0.7),
    positive("price_sensitivity_spread", 0.4, 0.5),
    positive("taste_spread", 0.7, 0.7),
    share("taste_shown", 0.6, 0.9),
    positive("affinity_hidden", 1.0, 0.7),
    Coefficient("convert_base", -4.0, 2.0),
    positive("cancel_per_day", 0.01, 1.0, most=1.0),
    Coefficient("cancel_per_discount", 1.0, 2.0),
    Coefficient("cancel_per_term", -0.05, 0.06),
    Coefficient("cancel_per_perk", -0.3, 0.5),
    Coefficient("cancel_per_taste", -0.2, 0.3),
    Coefficient("retention_offer_effect", -0.3, 0.4),
)
# Effects across visits, which a site need not have: fitted where asked for.
HISTORY = (
    Coefficient("appeal_per_dependence", 0.0, 0.3),
    Coefficient("discount_wear", 0.0, 0.3),
    Coefficient("cancel_per_dependence", 0.0, 0.7),
)


@dataclass(frozen=True, slots=True, eq=False)
class ResponseFit:
    """Estimates, in the free form in which they are searched.

    Attributes
    ----------
    mode
        Shape ``(d,)``.
    curvature
        Of the log-likelihood with its priors at the mode, shape ``(d, d)``: the outer product of the scores; where visits are weighted,
        by differences of scores.
    scores
        Derivative of each visitor's log-likelihood at the mode, shape ``(n_subjects, d)``.
    trend_p
        P-value of the hypothesis that no offer's appeal rises or falls with the date: the laws have no date, and where they need one
        the errors above are too small.
    """

    coefficients: tuple[Coefficient, ...]
    mode: FloatArray
    curvature: FloatArray
    scores: FloatArray
    log_likelihood: float
    n_subjects: int
    n_visits: int
    trend_p: float

    @property
    def names(self) -> tuple[str, ...]:
        """Of the coefficients, in order."""
        return tuple(c.name for c in self.coefficients)

    @property
    def covariance(self) -> FloatArray:
        """Of the free forms, shape ``(d, d)``: the inverse of the information, which is a sandwich where visits are weighted.

        References
        ----------
        White (1982), "Maximum likelihood estimation of misspecified models".
        """
        bread = np.linalg.inv(self.curvature)
        return np.asarray(bread @ (self.scores.T @ self.scores + self._prior) @ bread, dtype=np.float64)

    @property
    def _prior(self) -> FloatArray:
        return np.diag([c.prior_sd**-2.0 for c in self.coefficients])

    def natural(self, free: FloatArray | None = None) -> dict[str, float]:
        """Values in their own units, by name; default: of the mode."""
        at = self.mode if free is None else free
        return {c.name: c.natural(float(x)) for c, x in zip(self.coefficients, at, strict=True)}

    def standard_errors(self) -> dict[str, float]:
        """In their own units, by the delta method."""
        sd = np.sqrt(np.diag(self.covariance))
        return {
            c.name: abs(c.slope(float(x))) * float(e) for c, x, e in zip(self.coefficients, self.mode, sd, strict=True)
        }

    def identified(self) -> tuple[str, ...]:
        """Coefficients of which the log leaves less than half of the spread that was plausible before it."""
        sd = np.sqrt(np.diag(self.covariance))
        return tuple(c.name for c, s in zip(self.coefficients, sd, strict=True) if s < 0.5 * c.prior_sd)

    def draws(self, counts: NDArray[np.int64], rng: np.random.Generator) -> FloatArray:
        """One set of coefficients for each resample of the visitors, by one step of Newton's from the mode.

        Parameters
        ----------
        counts
            How often each visitor is in each resample, shape ``(n_draws, n_subjects)``.

        Returns
        -------
        numpy.ndarray
            Shape ``(n_draws, d)``, free form. Where the log says nothing they spread as the prior does.

        References
        ----------
        Kline and Santos (2012), "A score based approach to wild bootstrap inference".
        """
        prior = np.asarray([1.0 / c.prior_sd for c in self.coefficients])
        moved = (counts - 1.0) @ self.scores + rng.normal(size=(len(counts), len(prior))) * prior
        return np.asarray(self.mode + np.linalg.solve(self.curvature, moved.T).T, dtype=np.float64)

    def given(self, **values: float) -> FloatArray:
        """Free forms of all coefficients where some are held at natural values, the others moved as the log asks."""
        inverse = np.asarray(np.linalg.inv(self.curvature), dtype=np.float64)
        return moved(self.coefficients, self.mode, inverse, values)


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


_Judged = tuple[float, FloatArray, FloatArray]


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


def fit_response(
    run: Rollout,
    scenario: Scenario,
    *,
    with_history_effects: bool = False,
    is_weighted: bool = False,
    n_nodes: int = 128,
    max_steps: int = 60,
) -> ResponseFit:
    """Fit how visitors answer, by steps of Berndt, Hall, Hall and Hausman from a start that knows nothing.

    Parameters
    ----------
    scenario
        Its offers and rules are known; nothing else of it is read.
    with_history_effects
        Whether discounts seen before may matter (``HISTORY``).
    is_weighted
        As of ``evidence_of``.

    Raises
    ------
    InvalidInputError
        If the log has fewer than 200 visitors or 20 contracts, or the search does not settle.

    References
    ----------
    Train (2009), "Discrete Choice Methods with Simulation", chapters 6, 8 and 9.
    """
    evidence = evidence_of(run, scenario, is_weighted=is_weighted)
    if evidence.n_subjects < 200 or len(evidence.contract) < 20:
        raise InvalidInputError(
            f"the log has {evidence.n_subjects} visitors and {len(evidence.contract)} contracts; expected at least 200 and 20"
        )
    traits = tuple(Coefficient(n, 0.0, 2.0) for n in evidence.linear_names if n.startswith("affinity:"))
    coefficients = (*COEFFICIENTS, *traits, *HISTORY)
    is_used = np.asarray([with_history_effects or c not in HISTORY for c in coefficients])
    of = Likelihood(evidence, coefficients, n_nodes=n_nodes, rows_a_chunk=250_000 // n_nodes)
    mean = np.asarray([c.prior_mean for c in coefficients])
    # What is not fitted is held where it has no effect by a prior that nothing moves.
    precision = np.where(is_used, [c.prior_sd**-2.0 for c in coefficients], 1e12)

    def judge(free: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        value, scores = of(free)
        return (
            value - 0.5 * float(precision @ (free - mean) ** 2),
            scores.sum(axis=0) - precision * (free - mean),
            scores,
        )

    # Without weights the outer product is the curvature, nearly: the way is found without.
    of.is_weighted = False
    at = mean.copy()
    value, gradient, scores = judge(at)
    for _ in range(max_steps):
        information = scores.T @ scores + np.diag(precision)
        at, (value, gradient, scores) = _climb(judge, at, (value, gradient, scores), information)
        if float(gradient @ np.linalg.solve(scores.T @ scores + np.diag(precision), gradient)) < 1e-2:
            break
    else:
        raise InvalidInputError(
            f"the response model did not settle in {max_steps} steps; expected a log with more visitors"
        )
    curvature = scores.T @ scores + np.diag(precision)
    if is_weighted:
        of.is_weighted = True
        at, (value, gradient, scores), curvature = _with_weights(of, judge, at, curvature, precision, is_used)
    used = np.flatnonzero(is_used)
    kept = tuple(coefficients[i] for i in used)
    return ResponseFit(
        kept,
        at[used],
        curvature[np.ix_(used, used)],
        scores[:, used],
        value,
        evidence.n_subjects,
        len(evidence.clicked),
        trend_p(of.of_visits(at), scores, precision, evidence),
    )


def _with_weights(
    of: Likelihood,
    judge: Callable[[FloatArray], _Judged],
    at: FloatArray,
    information: FloatArray,
    precision: FloatArray,
    is_used: BoolArray,
) -> tuple[FloatArray, _Judged, FloatArray]:
    """From the estimates without weights to those with: where, what is known there, and the curvature, which no outer product gives."""
    steps = np.where(is_used, 0.2 / np.sqrt(np.diag(information)), 0.0)

    def curvature_at(free: FloatArray) -> FloatArray:
        return _no_flatter_than(of.curvature(free, steps) + np.diag(precision), precision)

    start, known, metric = at, judge(at), curvature_at(at)
    for _ in range(_MAX_WEIGHTED_STEPS):
        if float(known[1] @ np.linalg.solve(metric, known[1])) < 1e-2:
            # Near the start its curvature still holds.
            is_near = float((at - start) @ metric @ (at - start)) < 1.0
            return at, known, metric if is_near else curvature_at(at)
        before, gradient = at, known[1]
        at, known = _climb(judge, at, known, metric)
        metric = _learned(metric, at - before, gradient - known[1])
    raise InvalidInputError(
        f"the response model with weights did not settle in {_MAX_WEIGHTED_STEPS} steps; fit it without weights"
    )


def trend_p(of_visits: FloatArray, scores: FloatArray, precision: FloatArray, evidence: Evidence) -> float:
    """P-value of a score test: a slope over dates in the log-odds of each offer, all of them nought.

    Parameters
    ----------
    of_visits
        As of ``Likelihood.of_visits``.
    scores, precision
        At the mode, shapes ``(n_subjects, d)`` and ``(d,)``: what the estimates have taken up is taken out.

    References
    ----------
    Rao (1948), "Large sample tests of statistical hypotheses concerning several parameters".
    """
    slopes = []
    for offer in np.unique(evidence.shown):
        mine = evidence.shown == offer
        day = evidence.day[mine].astype(np.float64)
        if mine.sum() >= _LEAST_VIEWS and day.std() > 0:
            slope = np.zeros(len(of_visits))
            slope[mine] = (day - day.mean()) / day.std() * of_visits[mine]
            slopes.append(np.add.reduceat(slope, evidence.start))
    if not slopes:
        return 1.0
    g = np.stack(slopes, axis=1)
    taken = np.linalg.solve(scores.T @ scores + np.diag(precision), scores.T @ g)
    left = g - scores @ taken
    total = left.sum(axis=0)
    return float(chi2.sf(total @ np.linalg.solve(left.T @ left, total), len(slopes)))


def _climb(
    judge: Callable[[FloatArray], _Judged], at: FloatArray, known: _Judged, metric: FloatArray
) -> tuple[FloatArray, _Judged]:
    """One step up, halved as long as that helps."""
    value, gradient, _ = known
    step = np.linalg.solve(metric, gradient)
    promised = float(gradient @ step)
    size, trial = 1.0, judge(at + step)
    # A whole step gains half of what the gradient promises where the metric is the curvature. Where the laws are not the log's,
    # the outer product is not: steps overshoot and climb by crumbs, so one that gains little is halved as long as that helps.
    while size > 1e-3 and trial[0] - value < 0.25 * size * promised:
        half = judge(at + 0.5 * size * step)
        if trial[0] > value and half[0] <= trial[0]:
            break
        size, trial = 0.5 * size, half
    return at + size * step, trial


def _learned(metric: FloatArray, step: FloatArray, change: FloatArray) -> FloatArray:
    """The curvature put right by what a step has shown (Broyden, Fletcher, Goldfarb and Shanno)."""
    if change @ step <= 1e-3 * float(step @ metric @ step):
        return metric
    seen = metric @ step
    return metric + np.outer(change, change) / (change @ step) - np.outer(seen, seen) / (step @ seen)


def _no_flatter_than(curvature: FloatArray, precision: FloatArray) -> FloatArray:
    """The curvature with the prior's in every direction in which it is less: a log does not make known less than before."""
    root = np.sqrt(precision)
    values, vectors = np.linalg.eigh(curvature / np.outer(root, root))
    return np.asarray((vectors * np.maximum(values, 1.0)) @ vectors.T * np.outer(root, root), dtype=np.float64)
