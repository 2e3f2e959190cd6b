"""The exported sequence encoder against the network it came from."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from engine.models.encoder import SequenceEncoder
from policies.artifact import Artifact
from policies.errors import ArtifactError, SchemaError
from policies.records import Event, SubjectId
from tests.engine.models.tables import decision_points

pytestmark = pytest.mark.torch
DATA = decision_points(300, seed=6)


@pytest.fixture(scope="module")
def fitted() -> tuple[Any, SequenceEncoder, Artifact]:
    """One network after a short fit, and what was exported from it."""
    import torch

    from engine.models.torch_sequence import GRUConfig, TorchGRU

    torch.set_num_threads(1)
    model = TorchGRU(GRUConfig(max_epochs=2, hidden=7, last_events=30))
    model.fit(DATA.part("train"), DATA.part("validation"))
    artifact = model.to_artifacts()["sequence_encoder"]
    assert model._net is not None
    return model._net.encoder.eval(), SequenceEncoder.from_artifact(artifact), artifact


@pytest.mark.parametrize(("n_rows", "length"), [(1, 1), (4, 11), (9, 30)])
def test_graph_equals_network_at_lengths_it_was_not_exported_at(
    fitted: tuple[Any, SequenceEncoder, Artifact], n_rows: int, length: int
) -> None:
    """Batch and length are free: the graph gives the network's states to 1e-6."""
    import torch

    net, encoder, _ = fitted
    padded = DATA.padded(np.argsort(DATA.lengths)[-n_rows:], length=length)
    names = ("event_type", "item", "gap_s", "value", "lengths")
    kinds = (torch.int64, torch.int64, torch.float32, torch.float32, torch.int64)
    with torch.inference_mode():
        theirs = net(*(torch.from_numpy(padded[n]).to(k) for n, k in zip(names, kinds, strict=True))).numpy()
    ours = encoder.encode(**padded)
    assert ours.shape == (n_rows, 7)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_padding_and_neighbours_change_nothing(fitted: tuple[Any, SequenceEncoder, Artifact]) -> None:
    """A row's state does not depend on what it is batched with; a row without events has the zero state."""
    _, encoder, _ = fitted
    rows = np.concatenate([np.argsort(DATA.lengths)[-3:], np.flatnonzero(DATA.lengths == 0)[:1]])
    together = encoder.encode(**DATA.padded(rows, length=30))
    for position, row in enumerate(rows):
        np.testing.assert_allclose(
            encoder.encode(**DATA.padded(np.array([row]), length=30))[0], together[position], atol=1e-6
        )
    assert not together[3].any()


def test_stepping_equals_reading_the_whole(fitted: tuple[Any, SequenceEncoder, Artifact]) -> None:
    """Advancing a state one event at a time ends where the whole sequence ends."""
    _, encoder, _ = fitted
    padded = DATA.padded(np.argsort(DATA.lengths)[150:155], length=30)
    state = np.zeros((5, encoder.width), np.float32)
    for t in range(padded["event_type"].shape[1]):
        after = encoder.step(state, *(padded[name][:, t] for name in ("event_type", "item", "gap_s", "value")))
        state = np.where((t < padded["lengths"])[:, None], after, state)
    np.testing.assert_allclose(state, encoder.encode(**padded), atol=2e-6)


def test_raw_events_give_the_state_of_their_tensors(fitted: tuple[Any, SequenceEncoder, Artifact]) -> None:
    """Events in any order, the future left out, unknown words as 0: the same state as the tensors by hand."""
    _, encoder, _ = fitted
    start = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def event(i: int, kind: str, item: str, value: float, minutes: float) -> Event:
        return Event(f"e{i}", SubjectId("s"), kind, item, value, start + timedelta(minutes=minutes))

    events = [
        event(3, "buy", "a new thing", 9.5, 90),
        event(1, "visit", "milk", 0.0, 0),
        event(4, "buy", "milk", 5.0, 120),  # at the decision itself: not before it
        event(2, "cart", "tea", 2.0, 30),
    ]
    got = encoder.encode_events(events, as_of=start + timedelta(minutes=120))
    expected = encoder.encode(
        np.array([[1, 2, 3]]),
        np.array([[2, 3, 0]]),
        np.array([[0, 1800, 3600]]),
        np.array([[0.0, 2.0, 9.5]]),
        np.array([3]),
    )[0]
    np.testing.assert_array_equal(got, expected)
    assert not encoder.encode_events([], as_of=start).any()


def test_ids_beyond_the_vocabulary_are_unknown(fitted: tuple[Any, SequenceEncoder, Artifact]) -> None:
    """An id from a later vocabulary is read as unknown, not as somebody else's row of the table."""
    _, encoder, _ = fitted
    one, two = np.array([[1]]), np.array([1])
    beyond = encoder.encode(one, np.array([[10_000]]), one, one, two)
    np.testing.assert_array_equal(beyond, encoder.encode(one, np.array([[0]]), one, one, two))


def test_wrong_shapes_and_kinds_are_refused(fitted: tuple[Any, SequenceEncoder, Artifact]) -> None:
    """Loose arrays and foreign artefacts get a sentence."""
    _, encoder, artifact = fitted
    with pytest.raises(SchemaError, match="four blocks"):
        encoder.encode(np.ones((2, 3), int), np.ones((2, 3), int), np.ones((2, 3)), np.ones((2, 2)), np.ones(2, int))
    with pytest.raises(ArtifactError, match="sequence_encoder"):
        SequenceEncoder(Artifact("other", artifact.manifest))


def test_serving_the_encoder_imports_no_training_framework() -> None:
    """The module that serves loads neither torch nor pandas nor scikit-learn."""
    code = (
        "import sys, engine.models.encoder, engine.models.calibration;"
        "bad = {'torch', 'tensorflow', 'pyspark', 'ray', 'pandas', 'lightgbm', 'sklearn'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_batches_hold_every_row_once_and_near_equal_lengths() -> None:
    """Both ways of bucketing deal every row exactly once, in as many batches, of far less padding than chance."""
    from engine.models.batches import bucketed_batches

    rng = np.random.default_rng(3)
    lengths = np.clip(rng.lognormal(np.log(12), 0.9, size=1000).astype(np.int64), 0, 128)
    for equal_tokens in (False, True):
        batches = list(bucketed_batches(lengths, rows_per_batch=64, rng=rng, equal_tokens=equal_tokens))
        np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(1000))
        assert abs(len(batches) - 16) <= 1
        padded = sum(len(batch) * lengths[batch].max() for batch in batches)
        assert padded < 1.5 * lengths.sum()
        assert padded < 0.4 * 1000 * 128
