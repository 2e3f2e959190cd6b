"""``nextoffer simulate``: policies side by side in simulated worlds; logs of them and sites fitted on logs are commands below it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import App, Parameter

from api.cli.opening import Where
from api.cli.telling import output_folder, say, teller, write_json

if TYPE_CHECKING:
    from simulator.rollouts import RewardName

app = App(name="simulate", help="Policies side by side in simulated worlds; logs of them; sites fitted on logs")
for _name, _function in (("log", "log"), ("raw", "raw"), ("service-log", "service_log"), ("own-log", "own_log")):
    app.command(f"api.cli.simulated_logs:{_function}", name=_name)
for _name in ("calibrate", "fidelity"):
    app.command(f"api.cli.simulated_sites:{_name}", name=_name)

ScenarioName = Annotated[str, Parameter(name=("--scenario", "--world"))]


@app.default
def simulate(
    *,
    scenario: ScenarioName = "reference",
    policy: tuple[str, ...] = ("uniform",),
    subjects: int = 20_000,
    days: int = 14,
    seeds: int = 3,
    seed: int = 1,
    setting: tuple[float, ...] = (),
    explore_share: float = 0.05,
    learn_from: str | None = None,
    out: Path | None = None,
    ray: str | None = None,
    json: Path | None = None,
    home: Path | None = None,
) -> int:
    """Let policies choose for simulated visitors until 30 days after the last contract.

    Parameters
    ----------
    scenario
        A world (reference, null, alike, trial, lapsed, changing, everything, tabular, habit, habit-null), a family of worlds with a swept
        setting (retention, retention-tabular, bargain-trap, shock, drift), or a folder with a saved world.
    policy
        Repeat it: uniform, oracle, greedy, planned or careful (tabular worlds), an offer's id, the folder of a saved policy, or a learner
        that begins with nothing and learns every evening (lints, linucb, logistic_thompson, shared_lints, beta_thompson). Differences are to the first; the baseline of scores is lived as well.
    subjects
        Visitors per seed.
    days
        Over which they arrive.
    seeds
        How many cohorts.
    seed
        The first seed; the others count up from it.
    setting
        Repeat it: values of the swept setting in place of the scenario's own.
    explore_share
        Share of decisions given to uniform exploration.
    learn_from
        Which reward learners learn from, once it is final: clicked (the same evening), subscribed (14 days later), kept_30d or
        margin_eur (44 days later); default: what the scenario scores. Give them enough days.
    out
        Keep one Parquet file a cell and a report here; the same command begun again lives only what is left.
    ray
        Live the cells on Ray: local, or the address of a cluster that sees the folder.
    json
        Write the figures here.
    home
        Folder of a service: the report is kept there, for the console.
    """
    import tempfile

    from engine.simulation.report import page, write_page
    from engine.simulation.sweep import run_cells, run_on_ray
    from simulator.experiments import plan, read_lives, summarise, with_baseline

    cells = plan(
        scenario,
        with_baseline(scenario, policy),
        n_subjects=subjects,
        visit_days=days,
        seeds=range(seed, seed + seeds),
        settings=setting or None,
        explore_share=explore_share,
        learn_from=cast("RewardName | None", learn_from),
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = output_folder(out) if out is not None else Path(scratch)
        if ray is None:
            n_lived = run_cells(cells, folder, on_done=teller("rollouts"))
        else:
            n_lived = run_on_ray(cells, folder, address=ray, on_done=teller("rollouts"))
        lives = read_lives(cells, folder)
        told = summarise(cells, lives)
        if out is not None:
            write_json(out / "summary.json", told)
            report = write_page(cells, lives, told, out)
            print(f"{n_lived} of {len(cells)} rollouts were new; report: {report}", file=sys.stderr)  # noqa: T201
        if home is not None:
            Where(home).keep(page(cells, lives, told), kind="simulate", about=scenario)
    _print_summary(told)
    if json is not None:
        write_json(json, told)
    return 0


def _print_summary(told: dict[str, Any]) -> None:
    from engine.simulation.report import crossing_text

    sizes = f"{len(told['seeds'])} x {told['n_subjects']:,} visitors"
    say(f"{told['scenario']}: {sizes}, in simulation; 95 % intervals")
    say(
        f"{'policy':28s} {'subscribed':>26s} {'kept 30 days':>26s} {'margin EUR':>24s} {'kept against first':>26s} {'score':>7s}"
    )
    for entry in told["settings"]:
        if told["setting"]:
            say(f"{told['setting']} {entry['at']:g}")
        for row in entry["policies"]:
            cells = [_cell(row["subscribed"], "%"), _cell(row["kept_30d"], "%"), _cell(row["margin_eur"], "")]
            cells.append(_cell(row["against_first"]["kept_30d"], "%"))
            score = f"{row['score']:7.2f}" if "score" in row else f"{'-':>7s}"
            say(
                f"{Path(row['policy']).name:28s} {cells[0]:>26s} {cells[1]:>26s} {cells[2]:>24s} {cells[3]:>26s} {score}"
            )
        if "best_possible" in entry:
            best = entry["best_possible"]
            word = "the exact optimum keeps" if best["is_exact"] else "no policy can keep more than"
            say(f"{word} {best['value']:.2%}")
    for turn in told["crossings"]:
        say(crossing_text(turn, told["setting"]))


def _cell(value: dict[str, float], unit: str) -> str:
    scale = 100.0 if unit == "%" else 1.0
    return f"{value['mean'] * scale:.2f}{unit} [{value['low'] * scale:.2f}, {value['high'] * scale:.2f}]"
