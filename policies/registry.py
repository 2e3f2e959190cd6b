"""Policies found by entry point: ours come through the same door as anyone's.

An entry point in group ``nextoffer.policies`` is called ``kind = "module:load"``, where ``load`` makes a
policy of that kind from an ``Artifact``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import cast

from policies.artifact import Artifact
from policies.errors import UnknownNameError
from policies.protocols import Policy

GROUP = "nextoffer.policies"


@cache
def _loaders() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=GROUP)}


def known_kinds() -> list[str]:
    """Names of all kinds of policy that can be loaded here."""
    return sorted(_loaders())


def load_policy(artifact: Artifact) -> Policy:
    """Make a policy from an artefact.

    Raises
    ------
    UnknownNameError
        If no installed package registers the artefact's kind.
    """
    if artifact.kind not in _loaders():
        raise UnknownNameError("kind of policy", artifact.kind, _loaders())
    (point,) = entry_points(group=GROUP, name=artifact.kind)
    loader = cast(Callable[[Artifact], Policy], point.load())
    return loader(artifact)
