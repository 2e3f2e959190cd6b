"""How values are shown on pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from offline_eval.report.formatting import Interval, Unit, format_value

_DONE = {
    "create": "created", "edit": "changed", "change": "changed", "plan": "fixed the plan", "approve": "approved", "schedule": "scheduled the start",
    "unschedule": "took back the start", "start": "started", "ramp": "let in more visitors", "reweight": "gave new shares", "force": "showed by hand",
    "stop": "stopped", "archive": "put away", "note": "noted", "put": "saved", "pause": "paused", "controls": "changed the rules",
    "register": "added the policy", "revoke": "revoked", "erase": "erased the person", "alert": "sent a message",
    "candidate": "proposed a candidate", "gate": "judged a candidate", "promote": "let a candidate serve", "rollback": "took a policy back",
    "live": "found a policy serving", "share": "gave out a link",
}  # fmt: skip


def filters() -> dict[str, Callable[..., str]]:
    """Filters of the templates."""
    return {
        "count": count,
        "share": share,
        "day": day,
        "moment": moment,
        "field_moment": field_moment,
        "plain": plain,
        "money": money,
        "done": done,
        "policy_name": policy_name,
    }


def count(value: float | None) -> str:
    """A whole number with thin groups."""
    return "–" if value is None else format_value(float(value), Unit("count"))


def share(value: float | None) -> str:
    """A share in percent."""
    return "–" if value is None else format_value(float(value), Unit("share"))


def day(value: datetime | None) -> str:
    """A date."""
    return "–" if value is None else value.strftime("%Y-%m-%d")


def moment(value: datetime | None) -> str:
    """A date and a time, in UTC."""
    return "–" if value is None else value.strftime("%Y-%m-%d %H:%M")


def field_moment(value: datetime | None) -> str:
    """A moment as an input of dates and times takes it."""
    return "" if value is None else value.strftime("%Y-%m-%dT%H:%M")


def plain(value: Any) -> str:
    """A number without needless zeros; nothing where there is none."""
    if value is None:
        return ""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def money(value: Any) -> str:
    """An amount in the currency that features of offers are in (``price_eur``); a price in words stays as it was written."""
    text = f"{value:.2f}" if isinstance(value, float) and value % 1 else plain(value)
    is_amount = re.fullmatch(r"-?[\d\s.,\u00a0]+", text)
    return f"{text.replace('-', '−')}\u00a0€" if is_amount else text


def done(action: str) -> str:
    """What the log of changes calls an action, in words."""
    return _DONE.get(action, action)


def policy_name(ref: str) -> str:
    """A version by its name alone."""
    return ref.partition("@")[0]


def policy_names(refs: Sequence[str]) -> dict[str, str]:
    """Names of versions, newest first: of the newest its own, of older ones with the beginning of the version."""
    seen: set[str] = set()
    out: dict[str, str] = {}
    for ref in refs:
        name, _, version = ref.partition("@")
        out[ref] = f"{name} · {version[:4]}" if name in seen else name
        seen.add(name)
    return out


def difference(interval: Interval, unit: Unit) -> tuple[str, str]:
    """A difference and its limits."""
    return (
        format_value(interval.estimate, unit, signed=True),
        f"{format_value(interval.low, unit, signed=True)} … {format_value(interval.high, unit, signed=True)}",
    )
