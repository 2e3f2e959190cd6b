"""Whom an experiment is for: conditions as they are typed, kept and shown."""

from __future__ import annotations

from api.console.ask import Ask
from api.console.words import Words
from policies.eligibility import Condition
from policies.errors import NextofferError, UnknownNameError
from policies.records import FeatureValue

OPERATORS = {
    "==": "is", "!=": "is not", "in": "is one of", "not in": "is none of", "<": "is below", "<=": "is at most", ">": "is above",
    ">=": "is at least", "present": "is known", "missing": "is not known",
}  # fmt: skip


def targeting(ask: Ask, *, strict: bool = True) -> list[Condition]:
    """Conditions that were filled in; a mistake in one is an error only where it would be kept."""
    out = []
    rows = zip(ask.texts("t_feature"), ask.texts("t_operator"), ask.texts("t_value"), strict=False)
    for feature, operator, text in rows:
        if not feature:
            continue
        try:
            if operator not in OPERATORS:
                raise UnknownNameError("operator", operator, OPERATORS)
            out.append(Condition(feature, operator, _typed_value(operator, text)))  # type: ignore[arg-type]  # just found among them
        except NextofferError:
            if strict:
                raise
    return out


def _typed_value(operator: str, text: str) -> FeatureValue | tuple[FeatureValue, ...]:
    if operator in ("missing", "present"):
        return None
    if operator in ("in", "not in"):
        return tuple(_plain_value(t.strip()) for t in text.split(",") if t.strip())
    return _plain_value(text)


def _plain_value(text: str) -> FeatureValue:
    """A number where it looks like one, yes or no, else text; in quotation marks it stays text."""
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return text


def condition_words(t: Words, condition: Condition) -> str:
    """A condition as a sentence."""
    return f"{condition.feature} {t(OPERATORS[condition.operator])} {shown_value(condition)}".strip()


def shown_value(condition: Condition) -> str:
    """A condition's value as it would be typed."""
    value = condition.value
    return ", ".join(_shown_plain(v) for v in value) if isinstance(value, tuple) else _shown_plain(value)


def _shown_plain(value: FeatureValue) -> str:
    if isinstance(value, str):
        return value if _plain_value(value) == value else f'"{value}"'
    return "" if value is None else str(value).lower() if isinstance(value, bool) else f"{value:.10g}"
