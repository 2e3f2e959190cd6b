"""Tables and batches put together, row after row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from policies.errors import SchemaError
from policies.records import DecisionTable, InteractionBatch


def stack_tables(tables: Sequence[DecisionTable]) -> DecisionTable:
    """Rows of several tables over the same offers, in order; subjects and times only where all parts have them.

    Raises
    ------
    SchemaError
        If offers, columns or vectors differ between parts.
    """
    first = tables[0]
    for table in tables:
        if (
            table.offers.revision != first.offers.revision
            or table.columns.keys() != first.columns.keys()
            or table.vectors.keys() != first.vectors.keys()
        ):
            raise SchemaError("parts of a log have different offers, columns or vectors; expected the same in all")
    return DecisionTable(
        offers=first.offers,
        eligible=np.concatenate([t.eligible for t in tables]),
        columns={name: np.concatenate([t.columns[name] for t in tables]) for name in first.columns},
        vectors={name: np.concatenate([t.vectors[name] for t in tables]) for name in first.vectors},
        subjects=_joined([t.subjects for t in tables]),
        at=_joined([t.at for t in tables]),
    )


def concatenate(parts: Sequence[InteractionBatch]) -> InteractionBatch:
    """Rows of several batches over the same offers, in order; optional columns only where all parts have them.

    Raises
    ------
    SchemaError
        If offers, columns or vectors differ between parts.
    """
    return InteractionBatch(
        table=stack_tables([p.table for p in parts]),
        chosen=np.concatenate([p.chosen for p in parts]),
        propensity=np.concatenate([p.propensity for p in parts]),
        reward=np.concatenate([p.reward for p in parts]),
        **{
            name: _joined([getattr(p, name) for p in parts])
            for name in ("probabilities", "decision_ids", "policies", "variants", "phases", "variant_probability")
        },
        is_reward_weighted=any(p.is_reward_weighted for p in parts),
    )


def _joined(columns: Sequence[Any]) -> Any:
    return None if any(c is None for c in columns) else np.concatenate(columns)
