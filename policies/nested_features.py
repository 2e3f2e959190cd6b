"""Nested feature objects, as Personalizer and dsjson have them, as our named features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from policies.errors import InvalidInputError
from policies.records import FeatureValue

MAX_NAME = 128


def flatten(objects: Sequence[Mapping[str, Any]], *, where: str) -> dict[str, FeatureValue]:
    """Join a list of nested objects into one table of named features.

    ``[{"user": {"tier": "gold"}}, {"ages": [3, 5]}, {"tags": ["a"]}]`` becomes
    ``{"user.tier": "gold", "ages.0": 3, "ages.1": 5, "tags=a": True}``: numbers of a list by position, texts as a set.
    Nulls and names that start with ``_`` are left out, as Personalizer did. Where two objects use one name, the later wins.

    Raises
    ------
    InvalidInputError
        If a name is longer than 128 characters or a list mixes numbers with other things.
    """
    out: dict[str, FeatureValue] = {}
    for entry in objects:
        for name, value in _leaves(entry, "", where):
            if len(name) > MAX_NAME:
                raise InvalidInputError(
                    f"feature {name[:40]!r}… of {where} has a name of {len(name)} characters; at most {MAX_NAME}"
                )
            out[name] = value
    return out


def _leaves(value: Mapping[str, Any], prefix: str, where: str) -> Iterator[tuple[str, FeatureValue]]:
    for key, inner in value.items():
        if key.startswith("_") or inner is None:
            continue
        name = f"{prefix}{key}"
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{name}.", where)
        elif isinstance(inner, list):
            yield from _list_leaves(inner, name, where)
        else:
            yield name, inner


def _list_leaves(values: list[Any], name: str, where: str) -> Iterator[tuple[str, FeatureValue]]:
    if all(isinstance(v, str) for v in values):
        yield from ((f"{name}={v}", True) for v in values)
    elif all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        yield from ((f"{name}.{i}", v) for i, v in enumerate(values))
    elif all(isinstance(v, Mapping) for v in values):
        for i, entry in enumerate(values):
            yield from _leaves(entry, f"{name}.{i}.", where)
    else:
        raise InvalidInputError(
            f"feature {name!r} of {where} is a list of mixed values; send numbers only, or texts only"
        )
