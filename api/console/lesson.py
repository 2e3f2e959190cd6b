"""The guided false winner: yesterday's test at look 3, and why the console said too early."""

from __future__ import annotations

from starlette.responses import Response

from api.console.ask import Ask
from api.console.page import Page
from api.console.result import looks_table
from api.console.shown import difference
from api.console.words import Words
from engine.experiments.lesson import LEVEL, LOOK, Lesson, false_winner
from offline_eval.abtest import ExperimentReading, MetricReading
from offline_eval.abtest.pages import difference_unit
from offline_eval.abtest.replay import Replay
from offline_eval.report import PROBABILITY, Interval, Line, LinePoint, format_value, interval_chart, line_chart
from offline_eval.report.page import render_blocks


def false_winner_page(ask: Ask) -> Response:
    """One A/A test told look by look."""
    t, lesson = ask.words, false_winner()
    then = _conversion(lesson.yesterday.now)
    end = _conversion(lesson.found.now)
    return ask.page(
        "lesson.html.j2",
        title=t("The false winner"),
        here="/why-too-early",
        lesson=lesson,
        look=LOOK,
        level=LEVEL,
        p=format_value(then.effect.p_value, PROBABILITY),
        naive=difference(then.effect.interval, difference_unit(then)),
        ours=difference(then.interval, difference_unit(then)),
        sentence=t.sentence(lesson.yesterday.now),
        last_sentence=t.sentence(lesson.found.now),
        end=difference(end.interval, difference_unit(end)),
        side_by_side=_side_by_side(t, lesson.yesterday.now),
        chart=_over_time(t, lesson),
        looks=render_blocks([looks_table(t, lesson.found, lesson.plan.n_looks)], in_simulation=False),
    )


def _conversion(reading: ExperimentReading) -> MetricReading:
    return reading.of(reading.plan.primary.name)


def _side_by_side(t: Words, reading: ExperimentReading) -> str:
    m = _conversion(reading)
    rows: dict[str, Interval] = {
        t("for a single look"): m.effect.interval,
        t("however often one looks"): m.interval,
    }
    chart = interval_chart(
        t("The same visitors, two intervals"), rows, unit=difference_unit(m), axis=t("difference"), reference_label=t("no difference"),
        say=t,
    )  # fmt: skip
    return render_blocks([chart], in_simulation=False)


def _over_time(t: Words, lesson: Lesson) -> str:
    unit = difference_unit(_conversion(lesson.found.now))
    single, always = _points(lesson.found)
    marks = {str(i): day for i, (day, _) in enumerate(lesson.found.looks, start=1)}
    lines = [Line(t("for a single look"), single), Line(t("however often one looks"), always)]
    chart = line_chart(
        t("The difference between two sides that saw the same"),
        lines,
        unit=unit,
        axis=t("difference"),
        x_axis=t("day of the experiment"),
        reference=0.0,
        marks=marks,
        note=t(
            "Numbers mark the planned looks. The narrow band leaves the zero line for a while: whoever looked then saw a winner. The wide one never does."
        ),
        say=t,
    )
    return render_blocks([chart], in_simulation=False)


def _points(found: Replay) -> tuple[list[LinePoint], list[LinePoint]]:
    single, always = [], []
    last = max(day for day, _ in found.looks)
    for day, reading in found.over_time:
        m = _conversion(reading)
        if reading.power.matured < reading.plan.min_subjects or day > last + 1:
            continue
        single.append(LinePoint(day, m.effect.estimate, m.effect.interval.low, m.effect.interval.high))
        always.append(LinePoint(day, m.effect.estimate, m.always.low, m.always.high))
    return single, always


PAGES = (Page("false_winner", "/why-too-early", false_winner_page, title="The false winner", menu="learn"),)
