"""Reading the bodies of many decisions for learning: what most of them have in common is parsed once.

A body (``engine.store.facts.decision_row``) begins with the eligible offers and their probabilities, which are most of it and
which a learner does not need as text: the run of bytes up to the probabilities names the list of offers. In the same way the
run from the offer set's revision to the rung names both. What is left to parse of a decision are its features.
A body that is laid out differently is parsed whole, with the same result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

_START = b'{"o":['
_MARKS = (b'],"p":[', b'],"c":', b',"r":', b',"e":', b',"x":{', b'},"w":{', b'},"t":')


@dataclass(slots=True)
class Bodies:
    """Columns of what a learner needs.

    Attributes
    ----------
    offers
        Eligible offers, in catalogue order; one tuple for all decisions that have the same.
    revisions, rungs
        Of the offer set, and which rung of the ladder drew.
    contexts, vectors
        Features, and named state vectors.
    """

    offers: list[tuple[str, ...]] = field(default_factory=list)
    revisions: list[str] = field(default_factory=list)
    rungs: list[str] = field(default_factory=list)
    contexts: list[Mapping[str, Any]] = field(default_factory=list)
    vectors: list[Mapping[str, Sequence[float]]] = field(default_factory=list)

    def add(self, body: Mapping[str, Any], offers: tuple[str, ...]) -> None:
        """Add one that was parsed whole."""
        self.offers.append(offers)
        self.revisions.append(body["r"])
        self.rungs.append(body["g"])
        self.contexts.append(body["x"])
        self.vectors.append(body["w"])

    def take(self, kept: Sequence[int]) -> Bodies:
        """Only some of them."""
        return Bodies(
            [self.offers[i] for i in kept],
            [self.revisions[i] for i in kept],
            [self.rungs[i] for i in kept],
            [self.contexts[i] for i in kept],
            [self.vectors[i] for i in kept],
        )


def read_bodies(bodies: Sequence[bytes]) -> Bodies:
    """Take apart bodies as they lie in the store.

    Quotes inside a JSON string are escaped, so that no mark looked for here (each holds one) can lie inside an id or a feature.
    """
    out = Bodies()
    offers, revisions, rungs, contexts, vectors = out.offers, out.revisions, out.rungs, out.contexts, out.vectors
    known: dict[bytes, tuple[str, ...]] = {}
    middles: dict[bytes, tuple[str, str]] = {}
    none: Mapping[str, Sequence[float]] = {}
    loads = orjson.loads
    p_mark, c_mark, r_mark, e_mark, x_mark, w_mark, t_mark = _MARKS
    for body in bodies:
        p = body.find(p_mark)
        r = body.find(r_mark, body.find(c_mark, p))
        e = body.find(e_mark, r)
        x = body.find(x_mark, e)
        w = body.find(w_mark, x)
        t = body.find(t_mark, w)
        if not 0 < p < r < e < x < w < t or not body.startswith(_START):
            whole = loads(body)
            out.add(whole, tuple(whole["o"]))
            continue
        head, middle = body[5 : p + 1], body[r + 1 : e]
        found = known.get(head)
        if found is None:
            found = known[head] = tuple(loads(head))
        both = middles.get(middle)
        if both is None:
            parsed = loads(b"{" + middle + b"}")
            both = middles[middle] = (parsed["r"], parsed["g"])
        offers.append(found)
        revisions.append(both[0])
        rungs.append(both[1])
        contexts.append(loads(body[x + 5 : w + 1]))
        vectors.append(none if t == w + 6 else loads(body[w + 6 : t + 1]))
    return out


def stripped(body: bytes) -> bytes:
    """Body of a decision without what was known of the subject."""
    if not body:
        return body
    return orjson.dumps({**orjson.loads(body), "x": {}, "w": {}, "t": 0, "d": {}})
