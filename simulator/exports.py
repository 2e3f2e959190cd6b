"""A rollout as the raw files a company would have: web analytics, customers and billing, in their usual mess, and the clean truth.

The mess is seeded and counted: events twice, events that arrive days late, values that are missing, browsers that nobody ever
tied to a customer. Beside the raw files ``truth/`` holds what really happened, so that cleaning can be judged row by row.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from policies.errors import InvalidInputError
from simulator.rollouts import Rollout
from simulator.site import DAY, START

_OF_THE_VISIT = frozenset({"stage", "searched_class", "device", "channel", "n_visits", "days_since_last_visit", "tenure_days",
                           "discounts_seen", "days_since_first_visit"})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mess:
    """How dirty the raw files are; every value is a share in [0, 1].

    Parameters
    ----------
    duplicated
        Events and invoices that are there twice, the copies received later.
    late
        Events received one to three days after they happened, out of order.
    missing
        Cells of traits and event properties left empty.
    second_browser
        Subjects who use a second browser from some visit on.
    unstitched
        Second browsers that the customer table does not know.
    """

    duplicated: float = 0.02
    late: float = 0.03
    missing: float = 0.05
    second_browser: float = 0.25
    unstitched: float = 0.30

    def __post_init__(self) -> None:
        for f in fields(self):
            if not 0.0 <= getattr(self, f.name) <= 1.0:
                raise InvalidInputError(f"{f.name} of the mess is {getattr(self, f.name)}; expected a share in [0, 1]")


def export_raw(run: Rollout, folder: Path, *, seed: int, mess: Mess | None = None) -> dict[str, int]:
    """Write ``web_analytics.jsonl``, ``customers.csv``, ``billing.csv``, ``truth/*.parquet``, ``counts.json`` and ``source.toml``.

    ``source.toml`` describes the files for ``nextoffer sequences build``.

    Returns
    -------
    dict
        How many rows each file has and how many of each kind of dirt, as in ``counts.json``.
    """
    mess = mess or Mess()
    rng = np.random.default_rng(seed)
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    names, at = run.table.subjects, run.table.at
    if names is None or at is None:
        raise InvalidInputError("the rollout has no subjects or times; expected both: make it with simulator.rollouts")
    n_subjects = len(run.subjects.n_visits)
    has_second = rng.random(n_subjects) < mess.second_browser
    switches_at = rng.integers(1, 4, size=n_subjects)
    is_stitched = rng.random(n_subjects) >= mess.unstitched
    nth = run.table.columns["n_visits"]
    is_second = has_second[run.row] & (nth >= switches_at[run.row])
    browser = np.where(is_second, np.char.add("b2-", names), np.char.add("b1-", names))
    counts = _write_events(run, folder / "web_analytics.jsonl", browser, at, mess, rng)
    counts |= _write_customers(run, folder / "customers.csv", is_stitched, is_second, mess, rng)
    counts |= _write_billing(run, folder / "billing.csv", mess, rng)
    counts["unstitched_browsers"] = len(np.unique(run.row[is_second & ~is_stitched[run.row]]))
    _write_truth(run, folder / "truth", browser)
    (folder / "source.toml").write_text(source_description(run), encoding="utf-8")
    told = {"seed": seed, "mess": asdict(mess), "in_simulation": True, **counts}
    (folder / "counts.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return counts


def source_description(run: Rollout) -> str:
    """What the raw files of a rollout hold and what is asked of them, as ``engine.sources`` reads it (TOML)."""
    kinds = {name: "string" if run.table.columns[name].dtype.kind == "U" else "double" for name in _traits(run)}
    where = " + ".join(f"int({name} IS NULL)" for name in kinds)
    template = files("simulator").joinpath("raw_source.toml").read_text(encoding="utf-8")
    return Template(template).substitute(
        typed="".join(f', {name} = "{kind}"' for name, kind in kinds.items()),
        named=",".join(f' {name} = "{name}"' for name in kinds),
        missing=f'note = [{{ name = "no_trait", where = "{where}" }}]\n' if kinds else "",
    )


def _traits(run: Rollout) -> list[str]:
    """Columns that belong to the person, not to the visit."""
    return [name for name in run.table.columns if name not in _OF_THE_VISIT]


def _write_events(
    run: Rollout,
    path: Path,
    browser: NDArray[np.str_],
    at: NDArray[np.datetime64],
    mess: Mess,
    rng: np.random.Generator,
) -> dict[str, int]:
    events: list[tuple[np.datetime64, dict[str, Any]]] = []
    counts = {"events": 0, "events_duplicated": 0, "events_late": 0, "event_values_missing": 0}
    n = len(run.chosen)
    dirt = rng.random((n, 2, 3))  # per decision, for visit and click: late, duplicated, missing
    delay = rng.integers(1, 4, size=(n, 2))
    device, channel = run.table.columns["device"], run.table.columns["channel"]
    for i in range(n):
        kinds = ("visit", "click") if run.rewards["clicked"][i] else ("visit",)
        for j, kind in enumerate(kinds):
            happened = at[i] + np.timedelta64(45 * j, "s")
            is_late, is_twice, is_missing = dirt[i, j] < (mess.late, mess.duplicated, mess.missing)
            received = happened + (delay[i, j] * DAY if is_late else np.timedelta64(2, "s"))
            offer = run.table.offers.ids[int(run.chosen[i])]
            event = {
                "event_id": f"{browser[i]}-{kind}-{int(run.day[i])}",
                "type": kind,
                "anonymous_id": str(browser[i]),
                "timestamp": f"{happened}Z",
                "received_at": f"{received}Z",
                "page": {"offer": offer, "device": None if is_missing else str(device[i]), "channel": str(channel[i])},
            }
            events.append((received, event))
            counts["events"] += 1
            counts["events_late"] += int(is_late)
            counts["event_values_missing"] += int(is_missing)
            if is_twice:
                again = received + np.timedelta64(7, "s")
                events.append((again, {**event, "received_at": f"{again}Z"}))
                counts["events_duplicated"] += 1
    events.sort(key=lambda e: (e[0], e[1]["event_id"]))
    with path.open("w", encoding="utf-8") as file:
        for _, event in events:
            file.write(json.dumps(event, separators=(",", ":")) + "\n")
    return counts


def _write_customers(
    run: Rollout,
    path: Path,
    is_stitched: NDArray[np.bool_],
    is_second: NDArray[np.bool_],
    mess: Mess,
    rng: np.random.Generator,
) -> dict[str, int]:
    assert run.table.subjects is not None
    traits = _traits(run)
    rows, first = np.unique(run.row, return_index=True)
    uses_second = np.unique(run.row[is_second])
    n_missing = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["customer_no", "anonymous_ids", *traits])
        for row, i in zip(rows, first, strict=True):
            name = str(run.table.subjects[i])
            browsers = [f"b1-{name}"] + ([f"b2-{name}"] if row in uses_second and is_stitched[row] else [])
            is_missing = rng.random(len(traits)) < mess.missing
            n_missing += int(is_missing.sum())
            cells = ["" if gone else run.table.columns[t][i] for t, gone in zip(traits, is_missing, strict=True)]
            writer.writerow([name, ";".join(browsers), *cells])
    return {"customers": len(rows), "customer_values_missing": n_missing}


def _write_billing(run: Rollout, path: Path, mess: Mess, rng: np.random.Generator) -> dict[str, int]:
    assert run.table.subjects is not None
    credited = np.flatnonzero(run.rewards["subscribed"] > 0)
    signed, left = run.subjects.signed_day, run.subjects.cancelled_day
    n_twice = 0
    cars = [offer.id for offer in run.table.offers if offer.features["car_class"] != "none"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["customer_no", "offer", "signed_on", "cancelled_on"])
        for i in credited:
            row = run.row[i]
            dates = [
                str((START + int(day) * DAY).astype("datetime64[D]")) if day >= 0 else ""
                for day in (signed[row], left[row])
            ]
            shown = run.table.offers.ids[int(run.chosen[i])]
            # Who signed without an offer took the first car in the catalogue.
            line = [str(run.table.subjects[i]), shown if shown in cars else cars[0], *dates]
            is_twice = rng.random() < mess.duplicated
            n_twice += int(is_twice)
            for _ in range(1 + is_twice):
                writer.writerow(line)
    return {"contracts": len(credited), "contracts_duplicated": n_twice}


def _write_truth(run: Rollout, folder: Path, browser: NDArray[np.str_]) -> None:
    assert run.table.subjects is not None
    assert run.table.at is not None
    n = len(run.chosen)
    decisions = pa.table(
        {
            "subject": pa.array(run.table.subjects.tolist()),
            "anonymous_id": pa.array(browser.tolist()),
            "at": pa.array(run.table.at).cast(pa.timestamp("us", tz="UTC")),
            "offer": pa.array([run.table.offers.ids[int(c)] for c in run.chosen]),
            "propensity": pa.array(run.probabilities[np.arange(n), run.chosen]),
            **{name: pa.array(values) for name, values in run.rewards.items()},
        }
    )
    pq.write_table(decisions, folder / "decisions.parquet")
    subjects = {f.name: pa.array(getattr(run.subjects, f.name)) for f in fields(run.subjects)}
    pq.write_table(pa.table(subjects), folder / "subjects.parquet")
