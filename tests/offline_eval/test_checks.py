"""``check_estimator`` on a researcher's estimators: a right one passes, each wrong one is found by the rule it breaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

from offline_eval import evaluate
from offline_eval.checks import Right, check_estimator
from offline_eval.estimators.base import ONE, REWARD, Column, Rows, Total, Value, mean_of, ratio_of
from policies.contract import ContractError
from policies.errors import InvalidInputError
from policies.records import FloatArray
from tests.offline_eval.worlds import world

WEIGHT = Column("my w", lambda rows: rows.weight)
EARNED = Column("my w*r", lambda rows: rows.weight * rows.reward)


@dataclass
class Mine:
    """An estimator as a researcher would write one: self-normalised weighting unless told otherwise."""

    name: str = "mine"
    needs_model: bool = False
    columns: tuple[Column, ...] = (WEIGHT, EARNED)
    value: Callable[[Mapping[str, Total]], Value] = field(default=lambda totals: ratio_of("my w*r", "my w", totals))

    def from_totals(self, totals: Mapping[str, Total]) -> Value:
        """What was passed."""
        return self.value(totals)


def mean_estimator(
    of: Callable[[Rows], FloatArray], *, name: str = "x", needs_model: bool = False, at_one: str = ""
) -> Mine:
    """The mean of one column."""
    return Mine(
        columns=(Column(name, of, at_one),), needs_model=needs_model, value=lambda totals: mean_of(name, totals)
    )


class Capped(Mine):
    """Caps weights at a quantile of the first rows it ever sees."""

    def __init__(self) -> None:
        super().__init__(columns=(Column("capped", self._capped),), value=lambda totals: mean_of("capped", totals))
        self.cap: float | None = None

    def _capped(self, rows: Rows) -> FloatArray:
        if self.cap is None:
            self.cap = float(np.quantile(rows.weight, 0.9))
        return np.minimum(rows.weight, self.cap) * rows.reward


def _model(rows: Rows) -> tuple[FloatArray, FloatArray]:
    return rows.model_target, rows.model_chosen  # type: ignore[return-value]  # a mistake where there is none: the point


def _fixed_normaliser(totals: Mapping[str, Total]) -> Value:
    return Value(totals["my w*r"] / totals["my w"], {"my w*r": 1 / totals["my w"]})


def _one_number(totals: Mapping[str, Total]) -> Value:
    return ratio_of("my w*r", "my w", {name: float(np.sum(total)) for name, total in totals.items()})


def _overwrites(rows: Rows) -> FloatArray:
    return np.multiply(rows.reward, rows.weight, out=rows.reward)


def _by_logged(rows: Rows) -> FloatArray:
    index = np.arange(len(rows.reward))
    return np.asarray(rows.reward * rows.target_chosen / rows.logged[index, rows.chosen])  # type: ignore[index]  # the point


WRONG: dict[str, tuple[Mine, str]] = {
    "fixed normaliser": (Mine(value=_fixed_normaliser), "the gradient by the total of 'my w' is the slope of the value"),
    "a sum, no mean": (
        Mine(value=lambda t: Value(t["my w*r"] / 1000, {"my w*r": 1 / 1000})),
        "a log given twice gives the same estimate",
    ),
    "normalised by its part": (
        mean_estimator(lambda rows: rows.weight / rows.weight.mean() * rows.reward),
        "do not depend on the other rows of its part",
    ),
    "a lag": (
        mean_estimator(lambda rows: rows.weight * np.roll(rows.reward, 1)),
        "do not depend on the order of rows",
    ),
    "a cap that is kept": (Capped(), "do not depend on a log that was read before"),
    "weights upside down": (
        mean_estimator(lambda rows: rows.reward / np.maximum(rows.weight, 0.1)),
        "with a reward model that is true, the estimate is the candidate's value",
    ),
    "no weights": (
        Mine(columns=(), value=lambda totals: mean_of(REWARD, totals)),
        "with a reward model that is true, the estimate is the candidate's value",
    ),
    "residual with the wrong sign": (
        mean_estimator(lambda rows: _model(rows)[0] + rows.weight * (rows.reward + _model(rows)[1]), needs_model=True),
        "with a reward model that is true",
    ),
    "residual without weight": (
        mean_estimator(lambda rows: _model(rows)[0] + rows.reward - _model(rows)[1], needs_model=True),
        "with a reward model that is wrong",
    ),
    "a model not asked for": (
        mean_estimator(lambda rows: _model(rows)[0] + rows.weight * (rows.reward - _model(rows)[1])),
        "without needs_model does without a reward model; found: TypeError",
    ),
    "resamples in one": (Mine(value=_one_number), "totals of resamples give one value each"),
    "rewards overwritten": (mean_estimator(_overwrites), "columns leave their inputs unchanged"),
    "distributions taken for granted": (mean_estimator(_by_logged), "where whole distributions were not logged"),
    "another's name": (
        mean_estimator(lambda rows: np.minimum(rows.weight, 2.0) * rows.reward, name="w*r"),
        "column 'w*r' is what that name stands for elsewhere",
    ),
    "not what it says at one": (
        mean_estimator(lambda rows: rows.weight * rows.reward / rows.propensity, at_one=REWARD),
        "column 'x' is 'reward' where all weights are one",
    ),
    "a total that is not there": (Mine(value=lambda totals: mean_of("nope", totals)), "found: KeyError: 'nope'"),
    "not a number": (mean_estimator(lambda rows: np.log(-rows.weight)), "column 'x' is finite"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.filterwarnings("ignore:invalid value encountered in log")
def test_each_mistake_is_found_by_the_rule_it_breaks(wrong: str) -> None:
    """The error says which rule, and what was found."""
    estimator, rule = WRONG[wrong]
    with pytest.raises(ContractError) as found:
        check_estimator(estimator)
    assert rule in str(found.value)


def test_right_estimators_pass() -> None:
    """Self-normalised weighting, plain weighting and a doubly robust one, none of them ours; and DM, if that much is said."""
    check_estimator(Mine())
    check_estimator(mean_estimator(lambda rows: rows.weight * rows.reward))
    robust = mean_estimator(
        lambda rows: _model(rows)[0] + rows.weight * (rows.reward - _model(rows)[1]), needs_model=True
    )
    check_estimator(robust)
    direct = mean_estimator(lambda rows: _model(rows)[0], needs_model=True)
    with pytest.raises(ContractError, match="relies on its model"):
        check_estimator(direct)
    told: tuple[Right, ...] = ("with a true model", "never")
    for right in told:
        check_estimator(direct, right=right)


def test_one_name_for_two_columns_is_refused_by_the_panel() -> None:
    """Columns are computed once by name, so a second meaning of a name would silently change another estimator."""
    w = world(n=300)
    clipped = mean_estimator(lambda rows: np.minimum(rows.weight, 1.1), name="w")
    with pytest.raises(InvalidInputError, match="make a column named 'w' differently"):
        evaluate(w.log, {"c": w.better}, estimators=[clipped], fit_reward=None, n_resamples=0)
    mine = evaluate(w.log, {"c": w.better}, estimators=[Mine()], fit_reward=None, n_resamples=0)
    ours = evaluate(w.log, {"c": w.better}, fit_reward=None, n_resamples=0)
    assert mine.estimate("c", "mine").value == ours.estimate("c", "SNIPS").value
    assert mine.headline == "mine"
    assert ONE not in {column.name for column in Mine().columns}
