"""What it means that a decision was seen and not taken back: said once, in SQL about a row ``d`` of ``decisions``.

Takings back are looked up by the key of their fact: voids have no index by decision, and after an outage there are many.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement

from engine.store.facts import VOID

# Name of the policy that is logged for visitors that are machines.
BOT = "bot"

_LATER_VOID = f"SELECT 1 FROM fact_keys v WHERE v.kind = {VOID} AND v.id = d.id AND v.ledger_offset > d.ledger_offset"
# A void takes back what was recorded before it: a decision that is recorded after its void stands.
STANDS = f"NOT EXISTS ({_LATER_VOID})"
# What machines are answered counts nowhere, even if they activate it.
COUNTS = f"d.policy NOT LIKE '{BOT}@%' AND {STANDS}"
IS_SEEN = f"((d.is_activated OR EXISTS (SELECT 1 FROM activations a WHERE a.decision = d.id)) AND {COUNTS})"


def stood_below(offset: str) -> str:
    """``STANDS`` by the facts below an offset, the query's parameter of that name."""
    return f"NOT EXISTS ({_LATER_VOID} AND v.ledger_offset < :{offset})"


def seen_below(offset: str) -> str:
    """``IS_SEEN`` by the facts below an offset, the query's parameter of that name."""
    activated = f"SELECT 1 FROM activations a WHERE a.decision = d.id AND a.ledger_offset < :{offset}"
    return (
        f"(d.ledger_offset < :{offset} AND (d.is_activated OR EXISTS ({activated})) "
        f"AND d.policy NOT LIKE '{BOT}@%' AND {stood_below(offset)})"
    )


# By the facts below the offset ``:known``.
STOOD = stood_below("known")


def is_for_people(policy: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a decision was made for a person: those for bots are answered by the reserved policy ``bot`` and count nowhere."""
    return policy.not_like(f"{BOT}@%")
