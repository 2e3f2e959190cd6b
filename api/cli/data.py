"""``nextoffer data``: raw data as files, from packages that bring them."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path

from cyclopts import App

app = App(name="data", help="Export public data to raw files")


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
