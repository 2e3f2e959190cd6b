"""``nextoffer evaluate``: what a policy would have earned on a log."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from policies.errors import InvalidInputError

if TYPE_CHECKING:
    from offline_eval.one_pass import Candidate, Log
    from policies.records import InteractionBatch, OfferSet

STREAM_ABOVE_BYTES = 256 * 1024 * 1024


def evaluate(
    *,
    log: Path,
    policy: list[Path | str],
    against: Path | str | None = None,
    explore_share: float = 0.05,
    effect: float | None = None,
    out: Path | None = None,
    json: Path | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> int:
    """Judge policies on a log in which another one acted; 0 where every one is recommended, else 1.

    Parameters
    ----------
    log
        Parquet file or folder (columns offer, reward, propensity, …), or a file of VW dsjson lines (``.json``, ``.dsjson``).
    policy
        Saved policy (a folder or file), or ``uniform``; may be given several times.
    against
        The incumbent: as ``policy``; without it, the policy that logged.
    explore_share
        Share of uniform exploration the policies would be served with.
    effect
        Smallest difference that matters, in the unit of the reward; a tenth of the incumbent's value if not given.
    out
        Write an HTML report here, and its JSON twin beside it.
    json
        Write the panel's figures here; ``-`` for stdout instead of the table.
    resamples
        Bootstrap resamples of subjects; 0 for none.
    seed
        Of folds and resamples.
    """
    from offline_eval import evaluate as judge

    data = _log(log)
    offers = data.offers if not hasattr(data, "table") else data.table.offers
    candidates = {_name(p): _policy(p, offers) for p in policy}
    if len(candidates) < len(policy):
        raise InvalidInputError("two policies have the same name; give each a folder or file of its own")
    incumbent = None if against is None else _policy(against, offers)
    panel = judge(
        data,
        candidates,
        incumbent=incumbent,
        explore_share=explore_share,
        minimal_effect=effect,
        n_resamples=resamples,
        seed=seed,
    )
    _print(panel.to_table(), panel.to_json(), json)
    if out is not None:
        page, twin = panel.page(title=f"Off-policy evaluation on {log.name}").write(out)
        print(f"report: {page}, figures: {twin}", file=sys.stderr)  # noqa: T201 - words on stderr
    return 0 if all(v.word == "recommend" for v in panel.verdicts.values()) else 1


def _print(table: str, figures: dict[str, object], path: Path | None) -> None:
    import json

    text = json.dumps(figures, indent=1, allow_nan=False)
    if path is not None and str(path) == "-":
        print(text)  # noqa: T201 - data on stdout
        return
    if path is not None:
        path.write_text(text + "\n", encoding="utf-8")
    print(table)  # noqa: T201 - data on stdout


def _log(path: Path) -> InteractionBatch | Log:
    from offline_eval.interop.arrow import ParquetLog, read_parquet
    from offline_eval.interop.dsjson import read_dsjson

    if not path.exists():
        raise InvalidInputError(f"{path} does not exist; expected a log as Parquet or dsjson")
    if path.suffix in (".json", ".dsjson", ".jsonl"):
        return read_dsjson(path)
    files = [path] if path.is_file() else list(path.rglob("*.parquet"))
    if sum(f.stat().st_size for f in files) > STREAM_ABOVE_BYTES:
        return ParquetLog(path)
    return read_parquet(path)


def _name(policy: Path | str) -> str:
    return str(policy) if str(policy) == "uniform" else Path(policy).stem


def _policy(policy: Path | str, offers: OfferSet) -> Candidate:
    from policies.artifact import load_artifact
    from policies.fixed import Uniform
    from policies.registry import load_policy

    if str(policy) == "uniform":
        return Uniform()
    return load_policy(load_artifact(Path(policy)))
