"""``nextoffer sequences``: from a described source to decision points, in a Spark process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from cyclopts import App

from api.cli.opening import HERE, Where

app = App(name="sequences", help="Build decision points with event sequences in Spark")


@app.command
def build(
    *,
    source: Path,
    out: Path,
    data: Path | None = None,
    words: Path | None = None,
    incremental: bool = False,
    json: bool = False,
) -> int:
    """Read, clean and join a source and write decision points with sequences.

    Parameters
    ----------
    source
        TOML description; ``examples/sources`` has some, ``docs/howto/add-a-source.md`` explains them.
    out
        Folder for points, manifest, cleaning report and rejected rows.
    data
        Folder with the raw files; where it is missing, what the description's provider brings, or the description's folder.
    words
        Folder of earlier decision points whose vocabularies are kept, so that a model trained on those can score these.
    incremental
        Build over what is in ``out``: subjects with nothing new keep their rows, and vocabularies stay.
    json
        Print the manifest on stdout.
    """
    from engine.jobs.children import run_in_front

    arguments = ["--source", str(source), "--out", str(out), *(["--data", str(data)] if data else [])]
    arguments += ["--words", str(words)] if words else []
    arguments += [*(["--incremental"] if incremental else []), *(["--json"] if json else [])]
    return run_in_front("engine.sequences.build", arguments)


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


@app.command
def backfill(
    *,
    source: Path,
    data: Path | None = None,
    json: bool = False,
    where: Where = HERE,
) -> int:
    """Put the newest events of every subject of a source into the store, so that decisions know the past from the first day.

    A second run writes nothing twice.

    Parameters
    ----------
    source
        TOML description.
    data
        Folder with the raw files.
    json
        Print the counts as JSON.
    """
    import json as json_module
    import tempfile
    from dataclasses import asdict

    from engine.decisions.backfill import backfill as put
    from engine.jobs.children import run_in_front

    with tempfile.TemporaryDirectory(prefix="nextoffer-backfill-") as scratch:
        arguments = ["--source", str(source), "--out", scratch, *(["--data", str(data)] if data else [])]
        code = run_in_front("engine.sequences.recent", arguments)
        if code:
            return code
        with where.opened() as service:
            done = asdict(put(service.event_many, Path(scratch) / "recent"))
    if json:
        print(json_module.dumps(done))  # noqa: T201 - data on stdout
    else:
        told = f"{done['n_recorded']} events of {done['n_subjects']} subjects recorded, {done['n_repeated']} were there"
        print(told)  # noqa: T201 - data on stdout
    return 0


@app.command
def traits(*, file: Path, where: Where = HERE) -> int:
    """Replace the traits of the subjects of a Parquet file (or a folder of them): what is known of them beside their events.

    Parameters
    ----------
    file
        One row a subject: a column ``subject``, and every other column a trait (number, text or boolean; null: none).
        ``nextoffer train score`` writes one.
    """
    from datetime import UTC, datetime

    from engine.subjects.trait_files import load_trait_files

    with where.opened() as service:
        at = datetime.now(UTC)
        n = load_trait_files(file, lambda rows: service.subjects.load_traits(rows, at=at))
    print(f"traits of {n} subjects loaded")  # noqa: T201 - data on stdout
    return 0
