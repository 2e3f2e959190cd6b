"""What becomes news: verdicts of running experiments, and what happened, or could not happen, by itself."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from api.console.words import Words
from engine.alerts.message import Language, News, Text
from engine.experiments.automation import Happened
from engine.experiments.lifecycle import Experiments
from engine.experiments.reading import Reading

LANGUAGES: tuple[Language, ...] = ("en", "ru")
_HAPPENED: dict[str, dict[Language, str]] = {
    "started": {"en": "{id} has started", "ru": "{id}: эксперимент начался"},
    "stopped": {"en": "{id} has ended: its planned end was reached", "ru": "{id}: эксперимент завершён в срок"},
    "held": {"en": "{id}: the ramp waits", "ru": "{id}: расширение остановлено"},
    "refused": {"en": "{id} could not be changed as planned", "ru": "{id}: запланированное не выполнено"},
}


def in_all_languages(make: Callable[[Words], Text]) -> dict[Language, Text]:
    """The same text in every language that messages come in."""
    return {language: make(Words(language)) for language in LANGUAGES}


def verdict_of(reading: Reading, *, link: str = "") -> News | None:
    """A verdict that somebody should hear of; None while it says *keep running* or no plan was fixed."""
    if reading.found is None:
        return None
    now = reading.found.now
    is_told = reading.is_planned or now.split.is_broken
    if not is_told or now.verdict.decision == "keep running":
        return None
    name = reading.experiment.id

    def text(t: Words) -> Text:
        badge = "" if not now.in_simulation else " (In simulation.)" if t.language == "en" else " (В симуляции.)"
        return Text(f"{name}: {t(now.verdict.decision)}", t.sentence(now) + badge + address(link, name))

    return News(
        topic=f"experiment {name}",
        state=f"{now.verdict.decision}: {now.verdict.reason}",
        kind="experiment.verdict",
        texts=in_all_languages(text),
        document={
            "experiment": name,
            "decision": now.verdict.decision,
            "reason": now.verdict.reason,
            "sentence": now.sentence(),
            "in_simulation": now.in_simulation,
        },
    )


def happening(happened: Happened, experiments: Experiments, *, link: str = "") -> News | None:
    """A start, an end, a ramp that waits, or a refusal; a step of a ramp that went well is no news."""
    if happened.kind not in _HAPPENED:
        return None
    name = happened.experiment
    revision = experiments.get(name).revision

    def text(t: Words) -> Text:
        title = _HAPPENED[happened.kind][t.language].format(id=name)
        body = "" if happened.kind in ("started", "stopped") else f"{happened.text[:1].upper()}{happened.text[1:]}."
        return Text(title, (body.replace("..", ".") or f"{title}.") + address(link, name))

    # A refusal or a waiting ramp comes back at every round with the same revision and reason, and is told once.
    return News(
        topic=topic_of(happened),
        state=f"{revision}: {happened.text}" if happened.kind in ("held", "refused") else str(revision),
        kind=f"experiment.{happened.kind}",
        texts=in_all_languages(text),
        document={"experiment": name, "reason": happened.text},
    )


def topic_of(happened: Happened) -> str:
    """Under what it is told."""
    return f"experiment {happened.experiment} {happened.kind}"


def address(link: str, experiment: str) -> str:
    """A last line that leads to the experiment."""
    return f"\n{link.rstrip('/')}/experiments/{quote(experiment, safe='')}" if link else ""
