"""Logs of rollouts on disk: one Parquet file that off-policy evaluation reads, and what calibration needs beside it.

``decisions.parquet`` has the columns of ``nextoffer evaluate --log``: offer, propensity, reward, eligible, subject, at, policy, is_matured,
rewarded_at and what the site knew. What is not known yet is missing there, never zero. ``visits.parquet`` and ``subjects.parquet`` hold the rest of the rollout, so that it can be read back whole.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from policies.errors import InvalidInputError, SchemaError
from policies.records import DecisionTable, FloatArray, OfferSet
from simulator.parameters import WorldParameters
from simulator.population import Population
from simulator.rollouts import MAY_COME_DAYS, REWARDS, RewardName, Rollout, SubjectOutcomes
from simulator.scenarios.car_subscription import Scenario
from simulator.scenarios.files import save_scenario
from simulator.site import DAY
from simulator.world import KEPT_AFTER_DAYS

FORMAT = 1
SITE = "site"
_OWN = ("offer", "propensity", "reward", "eligible", "subject", "at", "policy", "is_matured", "rewarded_at")


def save_log(
    run: Rollout,
    folder: Path,
    *,
    reward: RewardName = "kept_30d",
    believed: FloatArray | None = None,
    is_simulated: bool = True,
) -> Path:
    """Write a rollout; returns the folder, without the site that lay beside an earlier log.

    Parameters
    ----------
    reward
        Which one ``decisions.parquet`` gives to estimators.
    believed
        Probabilities that ``decisions.parquet`` states, shape ``(n, k)``; default: the true ones, which ``visits.parquet`` keeps.
    is_simulated
        Whether it is, for whoever reads ``log.json``.
    """
    known = run.is_known(reward)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / SITE, ignore_errors=True)
    n, k = run.probabilities.shape
    ids = np.asarray(run.table.offers.ids)
    taken = sorted(set(_OWN) & {*run.table.columns, *run.table.vectors})
    if taken:
        raise SchemaError(f"columns {taken} of the rollout have names that the log needs; rename them")
    eligible = [ids[row].tolist() for row in np.unique(run.table.eligible, axis=0)]
    which = np.unique(run.table.eligible, axis=0, return_inverse=True)[1].ravel()
    decisions: dict[str, Any] = {
        "offer": pa.array(ids[run.chosen]),
        "propensity": pa.array((run.probabilities if believed is None else believed)[np.arange(n), run.chosen]),
        "reward": _as_known(run, reward),
        "eligible": pa.array(eligible).take(pa.array(which)),
        "subject": pa.array(run.table.subjects),
        "at": pa.array(run.table.at).cast(pa.timestamp("us", tz="UTC")),
        "policy": pa.array(np.full(n, run.policy)),
        "is_matured": pa.array(known),
        "rewarded_at": _rewarded_at(run, reward),
        **{name: pa.array(column) for name, column in run.table.columns.items()},
        **{name: pa.array(list(block)) for name, block in run.table.vectors.items()},
    }
    pq.write_table(pa.table(decisions), folder / "decisions.parquet", row_group_size=1 << 16)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(run.probabilities.ravel()), k)
    visits: dict[str, Any] = {
        "row": pa.array(run.row),
        "day": pa.array(run.day),
        "chosen": pa.array(run.chosen),
        "probabilities": flat,
        **{name: _as_known(run, name) for name in REWARDS},
    }
    pq.write_table(pa.table(visits), folder / "visits.parquet", row_group_size=1 << 16)
    subjects: dict[str, Any] = {f.name: pa.array(getattr(run.subjects, f.name)) for f in fields(run.subjects)}
    pq.write_table(pa.table(subjects), folder / "subjects.parquet")
    told = {
        "format": FORMAT, "in_simulation": is_simulated, "policy": run.policy, "last_day": run.last_day, "reward": reward,
        "offers": list(run.table.offers.ids), "columns": sorted(run.table.columns), "vectors": sorted(run.table.vectors),
    }  # fmt: skip
    (folder / "log.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return folder


def _as_known(run: Rollout, name: RewardName) -> pa.Array:
    """A reward of each decision; missing where none has come and one still may."""
    is_open = run.day + MAY_COME_DAYS[name] > run.last_day
    return pa.array(run.rewards[name], mask=(run.rewards[name] == 0) & is_open & ~run.is_known(name))


def _rewarded_at(run: Rollout, name: RewardName) -> pa.Array:
    """When each reward came: a click at once, a contract on the evening it is signed, keeping 30 evenings later; missing without one."""
    at = run.table.at
    assert at is not None
    if name != "clicked":
        signed = run.subjects.signed_day[run.row] + (KEPT_AFTER_DAYS if name == "kept_30d" else 0)
        # Days count from the first of the log, whose date any of its decisions gives.
        start = at[:1].astype("datetime64[D]") - run.day[:1].astype("timedelta64[D]")
        at = np.asarray(
            start.astype("datetime64[s]") + (signed + 1) * DAY - np.timedelta64(1, "s"), dtype="datetime64[s]"
        )
    return pa.array(at, mask=run.rewards[name] == 0).cast(pa.timestamp("us", tz="UTC"))


def save_site(site: Scenario, folder: Path) -> Path:
    """Write offers and rules of the site beside a log that was just written, and nothing else: what a fit may know."""
    known = replace(site, parameters=WorldParameters(), population=Population.synthetic(size=2), calendar=None)
    return save_scenario(known, folder / SITE)


def load_log(folder: Path, offers: OfferSet) -> Rollout:
    """Read back what ``save_log`` wrote.

    Parameters
    ----------
    offers
        The site's, whose ids and order the log must have.

    Raises
    ------
    InvalidInputError
        If the folder is no log, or one of other offers.
    """
    path = folder / "log.json"
    if not path.exists():
        raise InvalidInputError(
            f"{folder} has no log.json; expected a folder that `nextoffer simulate log`, `service-log` or `own-log` wrote"
        )
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if told["offers"] != list(offers.ids):
        raise InvalidInputError(
            f"the log has the offers {', '.join(told['offers'])}; the site has {', '.join(offers.ids)}: name the site it came from"
        )
    decisions = pq.read_table(folder / "decisions.parquet")
    visits = pq.read_table(folder / "visits.parquet")
    subjects = pq.read_table(folder / "subjects.parquet")

    def plain(table: pa.Table, name: str) -> Any:
        column = table[name].combine_chunks()
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return np.asarray(column.to_pylist(), dtype=np.str_)
        return column.to_numpy(zero_copy_only=False)

    ids = {offer: i for i, offer in enumerate(told["offers"])}
    eligible = np.zeros((decisions.num_rows, len(ids)), dtype=np.bool_)
    lists = decisions["eligible"].combine_chunks()
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    places = np.asarray([ids[str(o)] for o in lists.flatten().to_pylist()])
    eligible[np.repeat(np.arange(len(lengths)), lengths), places] = True
    flat = visits["probabilities"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return Rollout(
        table=DecisionTable(
            offers=offers,
            eligible=eligible,
            columns={name: plain(decisions, name) for name in told["columns"]},
            vectors={n: np.asarray(decisions[n].to_pylist(), dtype=np.float32) for n in told["vectors"]},
            subjects=plain(decisions, "subject"),
            at=decisions["at"].combine_chunks().cast(pa.timestamp("us")).to_numpy(zero_copy_only=False),
        ),
        chosen=plain(visits, "chosen"),
        probabilities=flat.reshape(-1, len(ids)),
        row=plain(visits, "row"),
        day=plain(visits, "day"),
        rewards={name: np.nan_to_num(plain(visits, name), nan=0.0) for name in REWARDS},
        subjects=SubjectOutcomes(**{f.name: plain(subjects, f.name) for f in fields(SubjectOutcomes)}),
        policy=told["policy"],
        last_day=told["last_day"],
    )
