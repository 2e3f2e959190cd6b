"""``nextoffer data``: raw data as files, from packages that bring them."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path

from cyclopts import App

app = App(name="data", help="Export public data to raw files; import a log of Azure Personalizer")


@app.command(name="export-complete-journey")
def export_complete_journey(*, out: Path, json: bool = False) -> int:
    """Write the Complete Journey's tables as a shop would hand them over: Parquet, CSV and JSON lines.

    Parameters
    ----------
    out
        Folder for the files; tables that are there already are left alone.
    json
        Print the number of rows of each table as JSON.
    """
    from engine.sources.complete_journey import export_complete_journey as export

    counts = export(out)
    if json:
        print(json_module.dumps({"folder": str(out), "rows": counts}))  # noqa: T201 - data on stdout
    else:
        for name, n in counts.items():
            print(f"{name:<24} {n:>10} rows", file=sys.stderr)  # noqa: T201 - words on stderr
        print(out)  # noqa: T201 - data on stdout
    return 0


@app.command(name="import-personalizer")
def import_personalizer(
    export: Path,
    /,
    *,
    out: Path,
    placement: str | None = None,
    home: Path | None = None,
    config: Path | None = None,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Turn Azure Personalizer's exported log into one that policies are judged on and trained from.

    Every line is checked; what cannot be used is left out and counted by reason, with the number of the first such line.

    Parameters
    ----------
    export
        A file of dsjson lines, or a folder of them.
    out
        Parquet file to write; ``nextoffer evaluate --log`` reads it.
    placement
        Put the decisions into the service's log of this placement as well, so that history and what comes are one log.
    home
        Folder of the service, for ``--placement``.
    config
        TOML file of settings, in place of ``--home``.
    seed
        Draws the repeats of events that the export itself had thinned out (pdrop).
    json
        Print the counts as JSON.
    """
    from engine.sources.personalizer_export import read_export
    from offline_eval.interop.arrow import write_parquet

    found = read_export(export, seed=seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_parquet(found.batch, out)
    counts = found.to_json()
    if placement is not None:
        from api.cli.opening import Where
        from engine.decisions.imported import take_in

        with Where(home, config).opened() as service:
            counts["taken_in"] = take_in(service, placement, found.batch)
    if json:
        print(json_module.dumps({"log": str(out), **counts}))  # noqa: T201 - data on stdout
        return 0
    words = [
        f"{counts['decisions']} decisions among {counts['offers']} offers, mean reward {counts['mean_reward']:.4f}"
    ]
    words += [f"left out {d.n} lines, the first at {d.first_line}: {reason}" for reason, d in found.dropped.items()]
    if found.n_repeated:
        words.append(f"{found.n_repeated} rows stand for events that the export had thinned out (pdrop)")
    if found.n_changed_offers:
        words.append(f"in {found.n_changed_offers} rows an offer had other features than at first; the first are kept")
    if placement is not None:
        words.append(f"{counts['taken_in']} of them are new in the log of placement {placement!r}")
    print("\n".join(words), file=sys.stderr)  # noqa: T201 - words on stderr
    print(out)  # noqa: T201 - data on stdout
    return 0
