"""What an estimator is: a few columns computed for each row, and a smooth function of their sums.

Every one-decision estimator here is a ratio (or a sum of ratios) of column totals. That one fact gives all the rest:
columns shared by several estimators are computed once; a log is read once, in chunks, in any order, on any number of
machines; the gradient gives the influence-function variance, clustered by subject; the same totals, resampled, give a
bootstrap that all estimators and candidates share, so that *differences* have intervals too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from policies.records import BoolArray, FloatArray, IntArray

# A total of one column: a number, or one number per resample.
Total = Any

ONE = "one"
REWARD = "reward"


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What estimators may see of some rows of a log, for one candidate.

    Attributes
    ----------
    weight
        Candidate's probability of the shown offer over the logged one, shape ``(n,)``.
    reward, propensity, chosen
        As logged, shape ``(n,)``.
    target
        Candidate's distribution, shape ``(n, k)``; None for the logging policy where only propensities were logged.
    target_chosen
        Candidate's probability of the shown offer, shape ``(n,)``.
    model_chosen, model_target
        Reward model's value of the shown offer, and its mean under the candidate, shape ``(n,)``; None without a model.
    logged
        The whole logged distribution, shape ``(n, k)``, where there is one.
    eligible
        Shape ``(n, k)``.
    """

    weight: FloatArray
    reward: FloatArray
    propensity: FloatArray
    chosen: IntArray
    target: FloatArray | None
    target_chosen: FloatArray
    model_chosen: FloatArray | None
    model_target: FloatArray | None
    logged: FloatArray | None
    eligible: BoolArray
    _known: dict[str, FloatArray] = field(default_factory=dict, init=False, repr=False)

    def column(self, column: Column) -> FloatArray:
        """A column of these rows, computed when it is first asked for."""
        known = self._known.get(column.name)
        if known is None:
            known = self._known[column.name] = column.of(self)
        return known

    @property
    def residual(self) -> FloatArray:
        """Reward less the model's value of the shown offer."""
        return self.column(RESIDUAL)

    @property
    def model(self) -> FloatArray:
        """Model's mean reward under the candidate."""
        assert self.model_target is not None
        return self.model_target


@dataclass(frozen=True, slots=True)
class Column:
    """One number per row; two columns of one name are the same column and are computed once.

    Parameters
    ----------
    at_one
        Name of the column it equals where all weights are one (for the policy that logged): ``one``, ``reward`` or ``r-q``.
        It is then not computed again.
    """

    name: str
    of: Callable[[Rows], FloatArray]
    at_one: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """An estimate and its gradient with respect to the column totals it was computed from."""

    value: Any
    gradient: Mapping[str, Any]


@runtime_checkable
class Estimator(Protocol):
    """Estimates what a candidate would have earned per decision, from column totals.

    ``check_estimator`` tests an implementation: gradient against differences, identities, invariances.
    """

    @property
    def name(self) -> str:
        """Short name; different settings have different names."""
        ...

    @property
    def needs_model(self) -> bool:
        """Whether a reward model is required."""
        ...

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns whose totals are used, besides ``one`` (rows) and ``reward``."""
        ...

    def from_totals(self, totals: Mapping[str, Total]) -> Value:
        """Value and gradient; must work element-wise where totals are arrays of resamples."""
        ...


@runtime_checkable
class Shrunk(Protocol):
    """An estimator that uses other weights than the true ones, and so has a bias that does not vanish with more rows."""

    @property
    def shrunk_weight(self) -> Column:
        """The weight actually used, not negative."""
        ...

    @property
    def kept_weight(self) -> Column:
        """What is left of the true weight: the lesser of the two; where none is made larger, the weight used itself."""
        ...


def mean_of(name: str, totals: Mapping[str, Total]) -> Value:
    """Mean over rows of one column."""
    n, x = totals[ONE], totals[name]
    return Value(x / n, {name: 1.0 / n, ONE: -x / n**2})


def ratio_of(top: str, bottom: str, totals: Mapping[str, Total]) -> Value:
    """Ratio of two columns' totals."""
    x, w = totals[top], totals[bottom]
    return Value(x / w, {top: 1.0 / w, bottom: -x / w**2})


def add(*values: Value) -> Value:
    """Sum of estimates, with the sum of their gradients."""
    gradient: dict[str, Any] = {}
    for part in values:
        for name, slope in part.gradient.items():
            gradient[name] = gradient.get(name, 0.0) + slope
    return Value(sum(part.value for part in values), gradient)


RESIDUAL = Column("r-q", lambda rows: rows.reward - _given(rows.model_chosen))
WEIGHT = Column("w", lambda rows: rows.weight, ONE)
WEIGHTED_REWARD = Column("w*r", lambda rows: rows.weight * rows.reward, REWARD)
MODEL = Column("dm", lambda rows: rows.model)
WEIGHTED_RESIDUAL = Column("w*(r-q)", lambda rows: rows.weight * rows.residual, RESIDUAL.name)


def _given(values: FloatArray | None) -> FloatArray:
    assert values is not None
    return values


Array = NDArray[Any]
