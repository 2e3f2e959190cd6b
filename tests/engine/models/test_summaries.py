"""Sequence summaries against plain loops."""

from __future__ import annotations

import itertools
import json

import numpy as np

from engine.models.summaries import SequenceSummary
from tests.engine.models.tables import DAY_S, decision_points

DATA = decision_points(60, seed=4)


def test_summaries_equal_a_loop_over_rows() -> None:
    """Counts, recency, windows, bigrams and last ids agree with a loop that reads each row by itself."""
    summary = SequenceSummary.fit(DATA, n_items=3, n_bigrams=4, n_last=2)
    matrix = summary.encode(DATA)
    column = {name: matrix[:, i] for i, name in enumerate(summary.names)}
    for row in range(len(DATA)):
        mine = slice(DATA.offsets[row], DATA.offsets[row + 1])
        types, gaps = DATA.event_type[mine].tolist(), DATA.gap_s[mine].astype(float)
        value = DATA.value[mine].astype(float)
        assert column["sequence_length"][row] == len(types)
        if not types:
            assert np.isnan(column["recency_days"][row])
            assert column["last_type_0"][row] == -1
            continue
        before = np.array([gaps[i + 1 :].sum() for i in range(len(types))]) + DATA.gap_to_as_of_s[row]
        np.testing.assert_allclose(column["events_30d"][row], (before <= 30 * DAY_S).sum())
        np.testing.assert_allclose(column["value_7d"][row], value[before <= 7 * DAY_S].sum(), rtol=1e-5)
        np.testing.assert_allclose(column["span_days"][row], gaps.sum() / DAY_S, rtol=1e-5)
        a, b = summary.bigrams[1]
        pairs = sum(x == (a, b) for x in itertools.pairwise(types))
        assert column[f"bigram_{a}_{b}"][row] == pairs
        item = summary.items[2]
        assert column[f"count_item_{item}"][row] == (DATA.item[mine] == item).sum()
        assert column["last_type_1"][row] == (types[-2] if len(types) > 1 else -1)


def test_summary_survives_saving_and_empty_data() -> None:
    """The saved form encodes the same, and rows without any event are encoded too."""
    summary = SequenceSummary.fit(DATA)
    back = SequenceSummary.from_manifest(json.loads(json.dumps(summary.to_manifest())))
    assert back == summary
    silent = DATA.take(np.flatnonzero(DATA.lengths == 0))
    assert summary.encode(silent).shape == (len(silent), len(summary.names))
