"""``nextoffer simulate``: policies side by side in a simulated world, on the same visitors with the same luck."""

from __future__ import annotations

import sys
from pathlib import Path


def simulate(
    *,
    world: str = "reference",
    policy: tuple[str, ...] = ("uniform",),
    subjects: int = 20_000,
    seeds: int = 3,
    seed: int = 1,
    explore_share: float = 0.05,
    json: Path | None = None,
) -> int:
    """Let policies choose for simulated visitors until 30 days after the last contract.

    Parameters
    ----------
    world
        A named world (reference, null, alike, bargain-trap, retention, retention-tabular, trial, changing, everything, tabular, habit,
        habit-null) or a folder with a saved one.
    policy
        Repeat it: uniform, oracle, an offer's id, or the folder of a saved policy. Differences are to the first.
    subjects
        Visitors per seed.
    seeds
        How many cohorts.
    seed
        The first seed; the others count up from it.
    explore_share
        Share of decisions given to uniform exploration.
    json
        Write the figures here.
    """
    import json as format_json

    from policies.errors import InvalidInputError
    from simulator.compare import compare
    from simulator.scenarios.files import load_scenario
    from simulator.scenarios.named import world_named

    if subjects < 2 or seeds < 1:
        raise InvalidInputError(f"got {subjects} subjects and {seeds} seeds; expected at least 2 and 1")
    scenario = load_scenario(Path(world)) if Path(world).is_dir() else world_named(world)
    is_watched = sys.stderr.isatty()

    def tell(done: int, total: int) -> None:
        if is_watched:
            print(f"\r{done} of {total} rollouts", end="\n" if done == total else "", file=sys.stderr, flush=True)  # noqa: T201

    told = compare(
        scenario,
        policy,
        n_subjects=subjects,
        seeds=range(seed, seed + seeds),
        explore_share=explore_share,
        on_done=tell,
    )
    print(f"{told['world']}: {seeds} x {subjects:,} visitors, in simulation; 95 % intervals")  # noqa: T201
    print(f"{'policy':28s} {'subscribed':>26s} {'kept 30 days':>26s} {'margin EUR':>24s} {'kept against first':>26s}")  # noqa: T201
    for row in told["policies"]:
        cells = [_cell(row["subscribed"], "%"), _cell(row["kept_30d"], "%"), _cell(row["margin_eur"], "")]
        cells.append(_cell(row["against_first"]["kept_30d"], "%"))
        print(f"{Path(row['policy']).name:28s} {cells[0]:>26s} {cells[1]:>26s} {cells[2]:>24s} {cells[3]:>26s}")  # noqa: T201
    if "upper_bound_kept_30d" in told:
        print(f"no policy can keep more than {_cell(told['upper_bound_kept_30d'], '%')}")  # noqa: T201
    if json is not None:
        json.write_text(format_json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return 0


def _cell(value: dict[str, float], unit: str) -> str:
    scale = 100.0 if unit == "%" else 1.0
    return f"{value['mean'] * scale:.2f}{unit} [{value['low'] * scale:.2f}, {value['high'] * scale:.2f}]"
