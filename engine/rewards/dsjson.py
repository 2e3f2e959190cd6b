"""Joined decisions as dsjson lines: what Vowpal Wabbit and Azure Personalizer's tools read, ours under ``_nextoffer``.

A superset: whoever knows dsjson reads context, offers, distribution, choice and reward; whoever knows ``_nextoffer`` gets back
the decision as it was logged. ``docs/dsjson.schema.json`` says it as JSON Schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from engine.store.facts import from_us
from policies.records import OfferSet

FORMAT = 1


def line_of(
    row: Mapping[str, Any], body: Mapping[str, Any], offers: OfferSet, *, reward: float, placement: str
) -> bytes:
    """One decision as a line, newline included.

    Parameters
    ----------
    row
        Columns of the decision: offset, id, subject, at_us, offer, propensity, policy, experiment, phase, variant.
    body
        Its parsed body.
    offers
        The set it chose from.
    """
    eligible: list[str] = body["o"]
    chosen: int = body["c"]
    # Eligible offers only, in catalogue order; `a` and `p` begin with the one that was shown.
    order = [chosen, *(i for i in range(len(eligible)) if i != chosen)]
    context: dict[str, Any] = {"context": {k: v for k, v in body["x"].items() if v is not None}}
    if body["w"]:
        context["vectors"] = body["w"]
    context["_multi"] = [
        {"_tag": o, "o": {k: v for k, v in offers[offers.index_of(o)].features.items() if v is not None}}
        for o in eligible
    ]
    return (
        orjson.dumps(
            {
                "_label_cost": -reward,
                "_label_probability": body["p"][chosen],
                "_label_Action": chosen + 1,  # VW counts from one here,
                "_labelIndex": chosen,  # and from zero here; a line without it silently gets a wrong label
                "o": [{"EventId": row["id"], "v": reward}],
                "Timestamp": from_us(row["at_us"]).isoformat(),
                "Version": "1",
                "EventId": row["id"],
                "pdrop": 0.0,
                "a": [i + 1 for i in order],
                "c": context,
                "p": [body["p"][i] for i in order],
                "VWState": {"m": f"{row['policy']}/{body['s']}"},
                "_nextoffer": {
                    "format": FORMAT,
                    "placement": placement,
                    "ledger_offset": row["offset"],
                    "subject": row["subject"],
                    "policy": row["policy"],
                    "snapshot": body["s"],
                    "rung": body["g"],
                    "offer_set_revision": body["r"],
                    "feature_space": body["f"],
                    "explore_share": body["e"],
                    "uniform": body["u"],
                    "secret_version": body["k"],
                    "event_cursor": body["t"],
                    "experiment": row["experiment"],
                    "phase": row["phase"],
                    "variant": row["variant"],
                    "variant_probability": body["q"],
                    "excluded": body["d"],
                },
            }
        )
        + b"\n"
    )
