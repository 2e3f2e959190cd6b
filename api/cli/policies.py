"""``nextoffer policies``: register artefacts as versions, list what there is, learn and search; promotion is beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from api.cli.opening import HERE, UNSIGNED, Where, show

if TYPE_CHECKING:
    from policies.records import InteractionBatch

app = App(name="policies", help="Register, list, learn and search policies; promote them and take them back")
for _name in ("states", "verdicts", "approve", "promote", "rollback", "watch", "forecasts", "tidy"):
    app.command(f"api.cli.promotion:{_name}", name=_name)


@app.command
def register(path: Path, /, *, name: str, where: Where = HERE) -> int:
    """Keep an artefact folder as a version of a policy and print name@version.

    Parameters
    ----------
    path
        Folder of the artefact.
    name
        Under which it is kept.
    """
    from datetime import UTC, datetime

    with where.opened() as service:
        print(service.policies.register(path, name=name, at=datetime.now(UTC), actor=UNSIGNED.by))  # noqa: T201
    return 0


@app.command(name="list")
def list_versions(*, json: bool = False, where: Where = HERE) -> int:
    """List registered versions, oldest first.

    Parameters
    ----------
    json
        As JSON.
    """
    with where.opened() as service:
        rows = [
            {"policy": str(v.ref), "kind": v.kind, "created_at": v.created_at.isoformat()}
            for v in service.policies.versions()
        ]
    show(rows, as_json=json, line="{policy}  {kind}  since {created_at}")
    return 0


@app.command
def kinds() -> int:
    """List the kinds of policy that are installed here."""
    from policies.registry import known_kinds

    print("\n".join(known_kinds()))  # noqa: T201 - data on stdout
    return 0


@app.command
def search(
    *,
    log: Path,
    out: Path,
    only: str = "",
    explore_share: float = 0.05,
    local: bool = False,
    address: str | None = None,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Find the policy that a log speaks best for, by cross-validated off-policy evaluation; 1 where none beats the log.

    Parameters
    ----------
    log
        Parquet file or folder with logged propensities, or VW dsjson lines.
    out
        Folder for the policy, the report and what was measured so far: the same command goes on where it was cut off.
    only
        Candidates whose names begin with one of these, separated by commas (``lints,greedy``); empty: all.
    explore_share
        Share of uniform exploration the policy would be served with.
    local
        In this process instead of on Ray.
    address
        Address of a Ray cluster.
    seed
        Of folds.
    json
        Print the report as JSON.
    """
    from engine.training.policy_search import search as find

    names = tuple(n.strip() for n in only.split(",") if n.strip())
    report = find(
        _log(log), out, names=names, explore_share=explore_share, address=address, use_ray=not local, seed=seed
    )
    judged = report["set_aside"]
    low, high = judged["over_logged_interval"]
    if json:
        import json as json_module

        print(json_module.dumps(report, indent=1))  # noqa: T201 - data on stdout
    else:
        show(report["candidates"], as_json=False, line="{value:.5f} ± {standard_error:.5f}  {name}")
        print(  # noqa: T201 - data on stdout
            f"best: {report['best']}; on {judged['n_interactions']} interactions set aside {judged['value']:.5f}, "
            f"{judged['over_logged']:+.5f} [{low:+.5f}, {high:+.5f}] over what was logged"
        )
    return 0 if low > 0 else 1


@app.command
def learn(
    *,
    log: Path,
    out: Path,
    form: str = "linear",
    estimator: str = "dr",
    start: Path | None = None,
    seed: int = 0,
) -> int:
    """Learn a policy from a log by climbing its off-policy value; 1 where held-out subjects see no gain.

    Parameters
    ----------
    log
        Parquet file or folder with logged propensities, or VW dsjson lines.
    out
        Folder of the policy.
    form
        ``linear`` or ``neural``.
    estimator
        ``dr`` or ``ips``.
    start
        Saved policy to begin from: it is imitated first.
    seed
        Of folds and networks.
    """
    from engine.training.off_policy import OffPolicySettings, imitate, learn_policy
    from policies.artifact import load_artifact, save_artifact
    from policies.registry import load_policy

    batch = _log(log)
    settings = OffPolicySettings(form=form, estimator=estimator, seed=seed)  # type: ignore[arg-type]  # checked there
    begin = None if start is None else imitate(load_policy(load_artifact(start)), batch.table)
    learned = learn_policy(batch, settings=settings, start=begin)
    save_artifact(learned.policy.to_artifact(), out)
    print(f"{out}: {learned.held_out:.5f} on held-out subjects, who got {learned.logged:.5f}")  # noqa: T201
    return 0 if learned.held_out > learned.logged else 1


def _log(path: Path) -> InteractionBatch:
    from offline_eval.interop.arrow import read_parquet
    from offline_eval.interop.dsjson import read_dsjson
    from policies.errors import InvalidInputError

    if not path.exists():
        raise InvalidInputError(f"{path} does not exist; expected a log as Parquet or dsjson")
    return read_dsjson(path) if path.suffix in (".json", ".dsjson", ".jsonl") else read_parquet(path)
