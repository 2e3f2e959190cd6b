"""Reading the bodies of many decisions: the offers of a body are one of a few lists, so they are parsed once.

A body (``engine.store.facts.decision_row``) begins with the eligible offers and their probabilities, which are most of it.
A learner needs neither as text: the run of bytes up to the probabilities names the list of offers, the rest is parsed.
A body that does not begin so is parsed whole, with the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

_START, _MIDDLE, _END = b'{"o":[', b'],"p":[', b'],"c":'


def offers_and_rest(bodies: Sequence[bytes]) -> tuple[list[tuple[str, ...]], list[dict[str, Any]]]:
    """Eligible offers of each decision (one tuple for all that have the same), and its other fields but ``p``.

    Quotes inside a JSON string are escaped, so the marks that are looked for cannot lie inside an offer's id.
    """
    offers: list[tuple[str, ...]] = []
    rests: list[dict[str, Any]] = []
    known: dict[bytes, tuple[str, ...]] = {}
    loads = orjson.loads
    for body in bodies:
        middle = body.find(_MIDDLE)
        end = body.find(_END, middle)
        if middle < 0 or end < 0 or not body.startswith(_START):
            whole = loads(body)
            offers.append(tuple(whole["o"]))
            rests.append(whole)
            continue
        head = body[len(_START) - 1 : middle + 1]
        found = known.get(head)
        if found is None:
            found = known[head] = tuple(loads(head))
        offers.append(found)
        rests.append(loads(b"{" + body[end + 2 :]))
    return offers, rests
