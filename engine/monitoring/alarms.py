"""The alarms: what each says, and which of them another one explains.

A cause has many symptoms: doubled rewards also spoil the calibration of a reward model. Where an alarm rings that explains another,
the other is shown as explained and does not ring. The reasons are part of the declaration and stand in the documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from policies.errors import UnknownNameError

Family = Literal["integrity", "facts", "features", "choice", "learning", "effects"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm.

    Parameters
    ----------
    name
        Also the name of its page in ``docs/howto/alarms``.
    title
        What it says where it rings, in a few words.
    is_warning
        Whether it asks for a look rather than for a deed: nothing is wrong with the log.
    explained_by
        Alarms whose ringing explains this one, each with the reason.
    """

    name: str
    title: str
    family: Family
    is_warning: bool = False
    explained_by: Mapping[str, str] = field(default_factory=dict)


_TRUTH_OF_FACTS = {
    "shown": "what came of a decision belongs to another offer than the one in the log",
    "duplicates": "facts that come twice count twice in what is realised",
    "values": "a value beyond reason is in the mean of what is realised",
    "silence": "what no longer comes is missing in what is realised",
    "clock": "facts with a wrong time fall out of their windows",
    "constant": "a model that sees a feature stand still predicts for other visitors than there are",
    "leak": "a model that sees the draw predicts by it",
}

ALARMS: tuple[Alarm, ...] = (
    Alarm("shown", "The page shows another offer than was chosen", "integrity"),
    Alarm("propensity", "Offers are not drawn as often as the log says", "integrity"),
    Alarm(
        "leak",
        "A feature knows what will be drawn",
        "integrity",
        explained_by={"propensity": "draws that are off as a whole are off in parts too"},
    ),
    Alarm("duplicates", "Facts come twice", "facts"),
    Alarm(
        "values",
        "Values of facts are not those of before",
        "facts",
    ),
    Alarm("silence", "Rewards or outcomes have stopped", "facts"),
    Alarm("clock", "A clock is wrong", "facts"),
    Alarm(
        "delay",
        "Facts come later than before",
        "facts",
        explained_by={"clock": "a delay is the difference of two clocks"},
    ),
    Alarm(
        "unattributed",
        "Outcomes find no decision",
        "facts",
        explained_by={"clock": "an outcome with a wrong time is looked for in the wrong place"},
    ),
    Alarm("constant", "A feature stands still", "features"),
    Alarm(
        "drift",
        "Visitors are not those of before",
        "features",
        is_warning=True,
        explained_by={
            "constant": "a feature that stands still has drifted as far as it can",
            "leak": "a feature that copies the draw has the distribution of the draw",
        },
    ),
    Alarm("fallbacks", "Visitors are answered by a lower rung", "choice"),
    Alarm(
        "collapse",
        "A policy hardly explores any more",
        "choice",
        explained_by={
            "fallbacks": "the baseline order explores no more than the explore share",
            "vanished": "with fewer offers there is less to choose from",
        },
    ),
    Alarm(
        "support",
        "A segment has no choice",
        "choice",
        explained_by={"collapse": "where nobody has a choice, no segment has"},
    ),
    Alarm("vanished", "An offer is no longer eligible for anybody", "choice"),
    Alarm(
        "overlap",
        "The log can hardly judge a candidate",
        "choice",
        is_warning=True,
        explained_by={
            "support": "offers without probability have weights without bound",
            "collapse": "a log that hardly explores judges nobody but its own policy",
            "vanished": "an offer that is not shown cannot be judged",
        },
    ),
    Alarm("learner", "A learner is stuck", "learning"),
    Alarm("calibration", "Predictions do not come true", "learning", explained_by=_TRUTH_OF_FACTS),
    Alarm(
        "worse",
        "A variant is worse than the holdout",
        "effects",
        explained_by={
            name: why for name, why in _TRUTH_OF_FACTS.items() if name in ("shown", "duplicates", "values", "clock")
        },
    ),
)
INTEGRITY = tuple(a.name for a in ALARMS if a.family == "integrity")
_BY_NAME = {a.name: a for a in ALARMS}


def alarm_of(name: str) -> Alarm:
    """An alarm by its name.

    Raises
    ------
    UnknownNameError
        If there is none of that name.
    """
    if name not in _BY_NAME:
        raise UnknownNameError("alarm", name, _BY_NAME)
    return _BY_NAME[name]
