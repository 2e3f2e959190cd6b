"""The proof step by step: commit, the reference worlds, sealed worlds, the grid, agreement, real logs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from engine.jobs.kept import Kept
from engine.jobs.narrator import Narrator
from engine.proof.agreement import agreement_in
from engine.proof.committed import commit, sealed
from engine.proof.config import ProofConfig
from engine.proof.coverage import coverage_in
from engine.proof.grid import grid_worlds
from engine.proof.headline import headline, reference_worlds
from engine.proof.one_world import answer_in
from engine.proof.real_logs import VARIABLE, data_folder
from engine.proof.replays import replays
from simulator.scenarios.sealed import SealedWorld

_FIRST_AGREEMENT = 300_000


@dataclass(frozen=True, slots=True)
class Proof:
    """Everything a run found."""

    config: ProofConfig
    commitment: dict[str, Any]
    reference: list[dict[str, Any]]
    sealed: list[dict[str, Any]]
    grid: list[dict[str, Any]]
    agreement: list[dict[str, Any]]
    replays: list[dict[str, Any]]
    seconds: float
    notes: list[str] = field(default_factory=list)


def prove(config: ProofConfig, narrator: Narrator) -> Proof:
    """Run everything that is not kept yet in ``config.keep``."""
    started = time.monotonic()
    told = commit(config)
    kept = partial(_kept, config, told)
    narrator.say(f"Committed before anything is trained: {told['hash']} ({config.keep / 'commitment.json'})")
    with narrator.step(
        "Reference worlds: train, plan, a live experiment in the real service, part of it over HTTP"
    ) as step:
        names = list(reference_worlds())
        reference = kept("reference").all_of(
            [(name.replace(" ", "-"), partial(headline, name, config, on_day=step.advance)) for name in names]
        )
    with narrator.step(f"{config.n_sealed} sealed worlds of the other family: lift, or cannot say") as step:
        worlds = sealed(config)
        answers = _answers(config, told, worlds, step.advance)
    with narrator.step(f"{config.n_grid} worlds over what no data identifies") as step:
        points = grid_worlds(config.n_grid, seed=config.seed)
        grid = kept("grid").all_of(
            [(f"{p.number:03d}", partial(coverage_in, p, config)) for p in points], on_done=step.advance
        )
    with narrator.step("Simulator, log and live side by side") as step:
        agreement = kept("agreement").all_of(_agreement_jobs(config, worlds, answers), on_done=step.advance)
    notes, rows, folder = [], [], data_folder()
    if folder is None:
        notes.append(f"Real logs are left out: {VARIABLE} names no folder that has them.")
        narrator.say(f"[dim]{notes[-1]}[/dim]")
    else:
        with narrator.step("Real randomised logs by replay"):
            (found,) = kept("replays").all_of([("all", lambda: {"rows": replays(folder, seed=config.seed)})])
            rows = found["rows"]
    return Proof(config, told, reference, answers, grid, agreement, rows, time.monotonic() - started, notes)


def short_proof(config: ProofConfig, narrator: Narrator) -> tuple[str, list[dict[str, Any]]]:
    """The sealed worlds alone: the commitment's hash, and what was answered in each."""
    told = commit(config)
    worlds = sealed(config)
    with narrator.step(
        f"A short proof: {len(worlds)} sealed worlds of another kind, committed as {told['hash'][:12]}…"
    ) as step:
        answers = _answers(config, told, worlds, step.advance)
    return str(told["hash"]), answers


def _kept(config: ProofConfig, told: dict[str, Any], name: str) -> Kept:
    """Finished worlds of one part of a proof: of this commitment and no other."""
    return Kept(config.keep / name, of={"commitment": told["hash"]})


def _answers(
    config: ProofConfig, told: dict[str, Any], worlds: list[SealedWorld], on_done: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    jobs = [(f"{w.number:03d}", partial(_sealed, w, config)) for w in worlds]
    return _kept(config, told, "sealed").all_of(jobs, on_done=on_done)


def _sealed(world: SealedWorld, config: ProofConfig) -> dict[str, Any]:
    told = answer_in(world.world, config, number=world.number, confounding=world.confounding)
    return {"kind": world.kind, **told}


def _agreement_jobs(
    config: ProofConfig, worlds: list[SealedWorld], answers: list[dict[str, Any]]
) -> list[tuple[str, Any]]:
    """The reference worlds and the first sealed ones in which a lift was claimed: promoted policies."""
    jobs: list[tuple[str, Any]] = []
    if not config.n_agreement:
        return jobs
    cells = list(reference_worlds().items())
    promoted = [
        w for w, a in zip(worlds, answers, strict=True) if w.kind == "effect" and a["answers"]["ours"] is not None
    ]
    cells += [(f"sealed {w.number}", w.world) for w in promoted[: config.n_agreement]]
    for place, (name, world) in enumerate(cells):
        run = partial(agreement_in, world, config, name=name, number=_FIRST_AGREEMENT + place)
        jobs.append((name.replace(" ", "-"), run))
    return jobs
