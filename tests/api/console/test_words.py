"""Sentences that the engine puts together, in the console's other language."""

from __future__ import annotations

import ast
import re
from importlib.resources import files
from pathlib import Path

import pytest

from api.console.words import Words
from engine.monitoring.alarms import ALARMS


def _sentences(path: Path) -> set[str]:
    """What a check says, with a 7 wherever it names something."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    whole = [n for n in ast.walk(tree) if isinstance(n, ast.JoinedStr)]
    no_sentences = {id(v) for n in whole for v in n.values} | {
        id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)
    }
    out = {"".join(str(v.value) if isinstance(v, ast.Constant) else "7" for v in n.values) for n in whole}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in no_sentences:
            out |= {re.sub(r"{[^}]*}", "7", node.value)} if node.value.endswith(".") else set()
    return out


def test_what_checks_find_is_said_in_russian() -> None:
    """Every sentence that a check of health can put together has a Russian form, with its names and figures in it."""
    checks = Path(str(files("engine.monitoring.checks")))
    said = {
        s for p in checks.glob("*.py") for s in _sentences(p) if re.search(r"[a-z]{2,} [a-z]{2,}", s) and "\n" not in s
    }
    said |= {why for a in ALARMS for why in a.explained_by.values()}
    assert len(said) > 50
    assert {s for s in said if Words("ru").said(s) == s} == set()
    nested = "A feature stands still: device has one value in 900 decisions; its commonest value had 55% at most."
    assert re.fullmatch(r"Признак застыл: device имеет одно значение .* 900 .* 55%\.", Words("ru").said(nested))
    assert Words("en").said(nested) == nested
    assert Words("ru").said("a note by hand; nobody translates it") == "a note by hand; nobody translates it"


@pytest.mark.parametrize(
    ("english", "russian"),
    [
        (
            "the ramp waits: nobody has been exposed at this step yet",
            "рост охвата ждёт: на этой ступени ещё никто ничего не видел",
        ),
        (
            "the ramp is held: conversion is worse with win back",
            "рост охвата остановлен: конверсия хуже с вариантом win back",
        ),
        (
            "the ramp is held: the traffic is not split as planned (A 9 of 20 expected); 3 subject(s) were seen in a variant that gets no traffic",
            "рост охвата остановлен: трафик делится не так, как задумано (A 9 of 20 expected); "
            "посетителей замечено в варианте, который не получает трафика: 3",
        ),
        ("outcomes: 410 of 410 are ahead", "исходы: спешат 410 из 410"),
        ("baseline order answered (rung 'baseline')", "ответ: базовый порядок (ступень 'baseline')"),
        ("variant 'days' of experiment 'new', phase 1", "вариант 'days' эксперимента 'new', фаза 1"),
    ],
)
def test_names_and_figures_stay_in_a_sentence_of_the_other_language(english: str, russian: str) -> None:
    """A form fits the whole sentence, sentences within it are said too, and what a site has named keeps its name."""
    assert Words("ru").said(english) == russian
