"""Ways of handling a rare label, and the correction that gives the level back."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from engine.models.imbalance import GAMMA, corrected, oversampled, positive_weight
from engine.models.metrics import expit, logit, roc_auc
from policies.errors import UnknownNameError
from tests.engine.models.tables import decision_points


@pytest.mark.parametrize("q", [0.01, 0.2, 0.5, 0.93])
def test_each_correction_undoes_the_minimiser_of_its_loss(q: float) -> None:
    """The score that minimises each loss at a true probability is given that probability back, found by plain minimisation."""
    rate = 0.05

    def minimiser(loss: object) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        found = minimize_scalar(loss, bounds=(-12, 12), method="bounded", options={"xatol": 1e-10})
        return expit(np.array([found.x]))

    w = (1 - rate) / rate

    def weighted(score: float) -> float:
        return float(w * q * np.logaddexp(0, -score) + (1 - q) * np.logaddexp(0, score))

    def focal(score: float) -> float:
        p = expit(np.array([score]))[0]
        return float(-q * (1 - p) ** GAMMA * np.log(p) - (1 - q) * p**GAMMA * np.log1p(-p))

    def adjusted(score: float) -> float:
        z = score + float(logit(np.array([rate]))[0])
        return float(q * np.logaddexp(0, -z) + (1 - q) * np.logaddexp(0, z))

    for how, loss in (
        ("class_weights", weighted),
        ("oversampling", weighted),
        ("focal", focal),
        ("logit_adjustment", adjusted),
    ):
        assert corrected(minimiser(loss), how=how, rate=rate)[0] == pytest.approx(q, rel=1e-3), how
    assert corrected(np.array([q]), how="none", rate=rate)[0] == q


def test_oversampling_makes_both_outcomes_equally_frequent() -> None:
    """Every row is there at least once, only positives are repeated, and half of the rows are positive."""
    label = np.array([1.0, 0, 0, 0, 0, 1, 0])
    rows = oversampled(label, np.random.default_rng(0))
    assert set(rows) == set(range(7))
    assert label[rows].mean() == 0.5
    assert sorted(rows[label[rows] == 0]) == [1, 2, 3, 4, 6]
    assert positive_weight(label) == pytest.approx(2.5)


@pytest.mark.torch
@pytest.mark.parametrize("how", ["class_weights", "oversampling", "focal", "logit_adjustment"])
def test_networks_keep_their_level_under_each(how: str) -> None:
    """Ranking stays, and the mean prediction is near the rate, which the uncorrected score of a rebalanced fit is not."""
    import torch

    from engine.models.torch_sequence import GRUConfig, TorchGRU

    torch.set_num_threads(1)
    data = decision_points(1500, seed=5, strength=1.5)
    rare = data.take((data.label != 1.0) | (np.random.default_rng(1).random(len(data)) < 0.3))
    train, test = rare.part("train"), rare.part("test", "calibration")
    model = TorchGRU(GRUConfig(max_epochs=4, last_events=64, seed=1, imbalance=how))  # type: ignore[arg-type]  # one of the literals
    model.fit(train, rare.part("validation"))
    p = model.predict(test)
    assert roc_auc(test.label, p) > 0.6
    assert p.mean() == pytest.approx(test.label.mean(), abs=0.05)


def test_unknown_way_offers_the_nearest() -> None:
    """A misspelt way is answered with the one that was meant."""
    from engine.models.imbalance import checked_imbalance

    with pytest.raises(UnknownNameError, match="class_weights"):
        checked_imbalance("class_weight")
