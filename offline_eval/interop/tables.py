"""Batches put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from policies.errors import SchemaError
from policies.records import DecisionTable, InteractionBatch


def concatenate(parts: Sequence[InteractionBatch]) -> InteractionBatch:
    """Rows of several batches over the same offers, in order.

    Raises
    ------
    SchemaError
        If offers or columns differ between parts.
    """
    first = parts[0]
    for part in parts:
        if part.table.offers is not first.table.offers or set(part.table.columns) != set(first.table.columns):
            raise SchemaError("parts of a log have different offers or columns; expected the same in all")
    tables = [p.table for p in parts]
    table = DecisionTable(
        offers=first.table.offers,
        eligible=np.concatenate([t.eligible for t in tables]),
        columns={name: np.concatenate([t.columns[name] for t in tables]) for name in first.table.columns},
        vectors={name: np.concatenate([t.vectors[name] for t in tables]) for name in first.table.vectors},
        subjects=_joined([t.subjects for t in tables]),
        at=_joined([t.at for t in tables]),
    )
    return InteractionBatch(
        table=table,
        chosen=np.concatenate([p.chosen for p in parts]),
        propensity=np.concatenate([p.propensity for p in parts]),
        reward=np.concatenate([p.reward for p in parts]),
        **{
            name: _joined([getattr(p, name) for p in parts])
            for name in ("probabilities", "decision_ids", "policies", "variants", "phases", "variant_probability")
        },
    )


def _joined(columns: Sequence[Any]) -> Any:
    return None if any(c is None for c in columns) else np.concatenate(columns)
