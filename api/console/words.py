"""What the pages say, in English and in Russian; English is the key of the other."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal, get_args

from offline_eval.abtest import ExperimentReading, MetricReading
from offline_eval.abtest.verdict import amount
from offline_eval.report.formatting import Interval, Unit, format_value

Language = Literal["en", "ru"]
# Places of a form that hold words of ours again, not names or figures of a site.
_NESTED = frozenset({"what", "why", "since", "state", "metric", "policy", "reasons", "error"})
LANGUAGES: tuple[Language, ...] = get_args(Language)


class Words:
    """Texts of one language; a text without a translation stays English."""

    def __init__(self, language: Language) -> None:
        self.language: Language = language
        self._known = {} if language == "en" else translations(language)

    def __call__(self, key: str, /, **values: Any) -> str:
        """A text with its values."""
        found = self._known.get(key, key)
        return found.format(**values) if values else found

    def sentence(self, reading: ExperimentReading) -> str:
        """The verdict in plain words and money."""
        if self.language == "en":
            return reading.verdict.sentence
        return _russian(reading, self)

    def amount(self, value: float, unit: Unit) -> str:
        """A figure for a sentence."""
        if self.language == "en":
            return amount(value, unit)
        return amount(value, unit, thousand="тыс.", million="млн", billion="млрд")

    def said(self, text: str) -> str:
        """A sentence that the engine has put together, with its names and figures as they are; as it is where nobody knows it."""
        if self.language == "en":
            return text
        known = self._known.get(text)
        if known is not None:
            return known
        for form, translation in _forms(self.language):
            found = form.fullmatch(text)
            if found is not None:
                values = {n: self.said(v) if n in _NESTED else v for n, v in found.groupdict().items()}
                return translation.format(**values)
        first, mark, rest = text.partition("; ")
        return f"{self.said(first)}{mark}{self.said(rest)}" if mark else text

    def metric(self, m: MetricReading) -> str:
        """Name of a metric."""
        return self(m.metric.title)


@lru_cache(maxsize=2)
def translations(language: Language) -> dict[str, str]:
    """All translations into a language: the file that all pages share, and those that single modules of pages bring."""
    found: dict[str, str] = {}
    for file in files("api.console").iterdir():
        if file.name == f"{language}.json" or (file.name.startswith(f"{language}_") and file.name.endswith(".json")):
            found |= json.loads(file.read_text(encoding="utf-8"))
    return found


@lru_cache(maxsize=2)
def _forms(language: Language) -> tuple[tuple[re.Pattern[str], str], ...]:
    """What a sentence of the engine looks like, and its translation; those that say most first, so that none hides another."""
    told: dict[str, str] = json.loads((files("api.console") / f"{language}_said.json").read_text(encoding="utf-8"))
    by_literal = sorted(told, key=lambda form: -len(re.sub(r"{\w+}", "", form)))
    return tuple((re.compile(re.sub(r"\\{(\w+)\\}", _place, re.escape(form))), told[form]) for form in by_literal)


def _place(found: re.Match[str]) -> str:
    """A place in a form: names and figures go no further than a colon or a semicolon, sentences do."""
    part = "." if found[1] in _NESTED else "(?!: |; )."
    return f"(?P<{found[1]}>(?:{part})+?)"


def _russian(reading: ExperimentReading, t: Words) -> str:
    verdict, plan, power = reading.verdict, reading.plan, reading.power
    so_far = f"{power.matured:,} из {power.planned:,} запланированных посетителей прослежены достаточно долго".replace(
        ",", "\u00a0"
    )
    days = "" if power.days_left is None else f", осталось дней: примерно {power.days_left:,.0f}"
    primary = {m.treatment: m for m in reading.metrics if m.metric.role == "primary"}
    shown = "; ".join(f"{name}: {_difference(m)}" for name, m in primary.items())
    names = ", ".join(plan.treatments)
    match verdict.reason:
        case "better":
            parts = [
                _change(plan.visitors_per_month, m, t)
                for m in reading.metrics
                if m.treatment == verdict.variant and _is_told(m)
            ]
            return f"Выпускайте {verdict.variant}: {' и '.join(parts)}{_per(plan.visitors_per_month)}."
        case "worse" | "guardrail":
            harmed = next((m for m in reading.metrics if m.is_worse), None)
            why = "" if harmed is None else _change(plan.visitors_per_month, harmed, t) + _per(plan.visitors_per_month)
            return f"Остановите {names}: {why}."
        case "no_difference":
            return f"Остановите и оставьте {plan.control}: план выполнен, разница не доказана ({shown})."
        case "too_early":
            return f"Продолжайте: судить рано, {so_far}{days}."
        case "guardrail_open":
            return f"Продолжайте: вариант выигрывает, но маржа ещё может оказаться хуже допустимого ({shown}); {so_far}{days}."
        case "broken_split":
            return f"Не читайте этот эксперимент: {t('the traffic is not split as planned')}. Найдите причину и начните заново."
        case "imbalance":
            return "Не читайте этот эксперимент: варианты различались ещё до начала. Найдите причину и начните заново."
    return f"Продолжайте: пока не решено ({shown}); {so_far}{days}."


def _is_told(m: MetricReading) -> bool:
    return m.metric.role == "primary" or (m.metric.role == "guardrail" and m.metric.unit.kind == "money")


def _change(visitors_per_month: float | None, m: MetricReading, t: Words) -> str:
    scaled = m.interval.scaled(visitors_per_month or 1000.0)
    unit = m.metric.unit if m.metric.unit.kind == "money" else Unit("count" if abs(scaled.estimate) >= 10 else "number")
    side = "больше" if scaled.estimate >= 0 else "меньше"
    noun = t(m.metric.noun or m.metric.title)
    size, low, high = (t.amount(v, unit) for v in (abs(scaled.estimate), scaled.low, scaled.high))
    return f"{noun} на {size} {side} (от {low} до {high})"


def _per(visitors_per_month: float | None) -> str:
    return " в месяц" if visitors_per_month else " на 1000 посетителей"


def _difference(m: MetricReading) -> str:
    unit = Unit("points") if m.metric.unit.kind == "share" else m.metric.unit
    return between(m.interval, unit, "от", "до")


def between(interval: Interval, unit: Unit, low: str, high: str) -> str:
    """Estimate and limits."""
    shown = [format_value(v, unit, signed=True) for v in (interval.estimate, interval.low, interval.high)]
    return f"{shown[0]} ({low} {shown[1]} {high} {shown[2]})"
