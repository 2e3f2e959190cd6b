"""``nextoffer sequences``: from a described source to decision points, in a Spark process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cyclopts import App

app = App(name="sequences", help="Build decision points with event sequences in Spark")


@app.command
def build(*, source: Path, out: Path, data: Path | None = None, json: bool = False) -> int:
    """Read, clean and join a source and write decision points with sequences.

    Parameters
    ----------
    source
        TOML description; ``examples/sources`` has some, ``docs/howto/add-a-source.md`` explains them.
    out
        Folder for points, manifest, cleaning report and rejected rows.
    data
        Folder with the raw files; where it is missing, what the description's provider brings, or the description's folder.
    json
        Print the manifest on stdout.
    """
    arguments = ["--source", str(source), "--out", str(out), *(["--data", str(data)] if data else [])]
    command = [sys.executable, "-m", "engine.sequences.build", *arguments, *(["--json"] if json else [])]
    return subprocess.run(command, check=False).returncode


@app.command
def check(source: Path, /) -> int:
    """Read a description and say what it describes, without starting Spark; exit code 2 where something is wrong with it.

    Parameters
    ----------
    source
        TOML description.
    """
    from engine.sources.description import load_source

    described = load_source(source)
    tables = ", ".join(f"{name} ({table.format})" for name, table in described.tables.items())
    print(f"{described.name}: {described.title}", file=sys.stderr)  # noqa: T201 - words on stderr
    print(f"tables: {tables}", file=sys.stderr)  # noqa: T201 - words on stderr
    print(f"label: {described.label.name}", file=sys.stderr)  # noqa: T201 - words on stderr
    return 0
