"""``nextoffer retrain``: learn from what has closed, judge it, register it; once, or every so often."""

from __future__ import annotations

import re

from api.cli.opening import HERE, Where
from policies.errors import InvalidInputError

_PARTS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_LOOK_S = 60.0


def retrain(
    placement: str,
    /,
    *,
    every: str | None = None,
    candidates: str = "greedy_logistic,greedy_lightgbm",
    memory_days: str = "0",
    window_days: float = 0.0,
    held_out: float = 0.3,
    simulator: bool = True,
    latency_budget_ms: float = 5.0,
    as_of_log: bool = False,
    seed: int = 0,
    json: bool = False,
    where: Where = HERE,
) -> int:
    """Retrain a placement's policy from its log and let the gate judge it; 1 where the gate refused it.

    With ``--every`` it looks after shadows, canaries, experiments and news beside it, as a console does, unless another process over
    the store does.

    Exported, fitted, judged and simulated results are kept: a run that was cut off goes on, and one without anything new changes
    nothing.

    Parameters
    ----------
    placement
        Whose decisions.
    every
        Repeat, such as 24h or 30m, until told to stop.
    candidates
        Which ones, separated by commas.
    memory_days
        How far back candidates look, separated by commas: 7,28,0 tries a week, four weeks and everything.
    window_days
        How far back the log is looked at, held-out time included; 0: everything.
    held_out
        Share of the decisions, the newest ones, on which all are judged.
    simulator
        Fit a site on the log and ask it too.
    latency_budget_ms
        What a decision may cost, in processor time.
    as_of_log
        Take the newest fact of the log as now, and label what is read as simulated: for a sandbox whose time is made up.
    seed
        Of the fits.
    json
        Print the run as JSON.
    """
    import json as json_module
    import signal
    import sys
    import threading
    from functools import partial

    from api.alerts.looking import habits_of, looking
    from api.logs import set_up
    from engine.experiments.moments import clock_of
    from engine.gate.health import integrity
    from engine.gate.records import Limits
    from engine.monitoring.thresholds import Thresholds
    from engine.retrain.pipeline import retrain as do
    from engine.retrain.records import RetrainConfig
    from engine.retrain.runs import Run
    from policies.errors import NextofferError

    own = where.existing()
    health = partial(integrity, thresholds=Thresholds.changed(own.alarm_thresholds))
    settings = RetrainConfig(
        placement,
        candidates=tuple(c.strip() for c in candidates.split(",") if c.strip()),
        memories_days=_days(memory_days),
        window_days=window_days,
        held_out_share=held_out,
        has_simulator=simulator,
        seed=seed,
        limits=Limits(latency_budget_ms=latency_budget_ms),
    )
    stop = threading.Event()

    def tell(run: Run) -> None:
        if json:
            print(json_module.dumps(run.to_json(), indent=1), flush=True)  # noqa: T201 - data on stdout
            return
        v = run.verdict
        said = "" if run.is_new else " (nothing new since then)"
        print(f"{v.policy}: {v.outcome}{said}")  # noqa: T201 - data on stdout
        for reason in v.reasons:
            print(f"  {reason}")  # noqa: T201
        for name, late in run.late.items():
            print(f"  late truth, {name}: {late['sentence']}")  # noqa: T201
        for told in run.restated:
            for metric, change in told["changed"].items():
                before, after = _pair(change["believed"]), _pair(change["now"])
                where = f"{told['experiment']} as of {told['as_of'][:10]}"
                print(f"  {where}, {metric}: believed {before}, now {after}")  # noqa: T201
        print(f"  {v.next_step}", flush=True)  # noqa: T201

    with where.opened() as service:
        now = clock_of(service.database, is_sandbox=as_of_log)

        def once() -> Run:
            made = do(
                service,
                settings,
                at=now(),
                in_simulation=as_of_log,
                narrate=lambda step: print(step, file=sys.stderr, flush=True),  # noqa: T201 - words on stderr
                health=health,
                actor="command",
            )
            tell(made)
            return made

        if every is None:
            return 1 if once().verdict.outcome == "refuse" else 0
        wait_s = _seconds(every)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        set_up(own.log_level, own.log_format)
        with looking(service, habits_of(own), clock=now, in_simulation=as_of_log, every_s=_LOOK_S):
            while not stop.is_set():
                try:
                    once()
                except NextofferError as error:
                    print(f"nextoffer: {error}", file=sys.stderr, flush=True)  # noqa: T201
                stop.wait(wait_s)
    return 0


def _pair(values: dict[str, float]) -> str:
    return f"{values['treatment']:.4g} against {values['control']:.4g}"


def _days(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(d) for d in text.split(","))
    except ValueError as error:
        raise InvalidInputError(
            f"--memory-days is {text!r}; expected numbers of days, separated by commas, such as 7,28,0"
        ) from error


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if found is None or not float(found[1]):
        raise InvalidInputError(f"--every is {text!r}; expected a number and s, m, h or d, such as 24h")
    return float(found[1]) * _PARTS[found[2]]
