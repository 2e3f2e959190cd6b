"""The second head: kept implies the label, and both are learned from what is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.models.dataset import SequenceDataset
from engine.models.metrics import expit, roc_auc
from policies.errors import SchemaError
from tests.engine.models.tables import decision_points


def with_kept(data: SequenceDataset, *, seed: int) -> SequenceDataset:
    """Of those with the label the ones with a high aggregate are mostly kept; a sixth is not known yet."""
    rng = np.random.default_rng(seed)
    spend = np.nan_to_num(data.columns["agg_spend"], nan=20.0)
    stays = rng.random(len(data)) < expit(1.5 * (np.log1p(spend) - 3.0))
    kept = np.where(rng.random(len(data)) < 1 / 6, np.nan, np.nan_to_num(data.label) * stays)
    return replace(data, kept=np.where(data.is_matured, kept, np.nan))


DATA = with_kept(decision_points(1600, seed=5, strength=1.5), seed=1)


def test_kept_without_the_label_is_refused() -> None:
    """A row that was kept and never converted is a mistake of the source, and is told so."""
    with pytest.raises(SchemaError, match="keeping implies the label"):
        replace(DATA, kept=np.where(DATA.label == 0, 1.0, 0.0))


def test_rows_keep_their_second_outcome() -> None:
    """Taking rows and writing them to Arrow and back loses nothing of the second outcome, unknown ones included."""
    rows = np.random.default_rng(0).permutation(len(DATA))[:70]
    assert DATA.kept is not None
    some = DATA.take(rows)
    back = SequenceDataset.from_arrow(some.to_arrow())
    assert back.kept is not None
    np.testing.assert_array_equal(back.kept, DATA.kept[rows])


@pytest.mark.torch
@pytest.mark.parametrize("name", ["gru", "transformer"])
def test_second_head_ranks_who_is_kept_and_never_exceeds_the_first(name: str) -> None:
    """P(kept) is at most P(label) for every row and ranks kept rows well; without a second outcome there is no such answer."""
    import torch

    from engine.training.candidates import build_model

    torch.set_num_threads(1)
    model = build_model(name, seed=1, quick=True)
    model.fit(DATA.part("train"), DATA.part("validation"))
    test = DATA.part("test")
    kept = model.predict_kept(test)  # type: ignore[attr-defined]  # only models with a second head have it
    assert (kept <= model.predict(test)).all()
    assert test.kept is not None
    known = np.isfinite(test.kept)
    assert roc_auc(test.kept[known], kept[known]) > 0.65
    plain = build_model(name, seed=1, quick=True)
    plain.fit(replace(DATA, kept=None).part("train"), replace(DATA, kept=None).part("validation"))
    assert plain.predict_kept(test) is None  # type: ignore[attr-defined]  # as above


@pytest.mark.torch
def test_refit_learns_from_every_row() -> None:
    """Fitted again on the pool for a number of epochs, the network ranks as well as before and its encoder is exported from there."""
    import torch

    from engine.models.torch_sequence import GRUConfig, TorchGRU

    torch.set_num_threads(1)
    model = TorchGRU(GRUConfig(seed=1, last_events=64))
    train, validation = DATA.part("train"), DATA.part("validation")
    model.fit(train, validation)
    once = model.to_artifacts()["sequence_encoder"]
    model.refit(DATA.part("train", "validation"), start_from=(train, validation), n_epochs=3)
    test = DATA.part("test")
    assert roc_auc(test.label, model.predict(test)) > 0.65
    assert model.to_artifacts()["sequence_encoder"].digest != once.digest
