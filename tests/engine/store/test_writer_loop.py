"""Both writers inside an event loop: the loop that asked is told, in time, whatever happens to the other side."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from engine.decisions.opening import open_service
from engine.decisions.requests import DecisionRequest
from engine.decisions.service import DecisionService
from tests.engine.decisions.test_failure import helper_of
from tests.engine.service_world import SECRET, Clock, open_shop

Kind = Literal["thread", "process"]


@pytest.fixture(params=["thread", "process"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], DecisionService]:
    """Opens the service of one shop by either writer."""
    with open_shop(tmp_path):
        pass
    kind: Kind = request.param
    return lambda: open_service(tmp_path, secret=SECRET, clock=Clock(), writer=kind)


async def many(service: DecisionService, prefix: str, n: int) -> list[str]:
    """Ids of n decisions asked for at once, all recorded."""
    answers = await asyncio.gather(
        *(service.adecide(DecisionRequest("shop", f"u{i}", id=f"{prefix}{i}")) for i in range(n))
    )
    assert all(a.decision.recorded for a in answers)
    return [a.decision.id for a in answers]


def test_loops_one_after_the_other_and_threads_beside_them_use_one_writer(
    opened: Callable[[], DecisionService],
) -> None:
    """A loop takes over the reading, gives it back when it is closed, and blocking callers are served all the while."""
    with opened() as service:
        assert service.decide(DecisionRequest("shop", "u", id="before")).decision.recorded
        found: list[bool] = []

        async def visit(prefix: str) -> None:
            asked = threading.Thread(
                target=lambda: found.append(
                    service.decide(DecisionRequest("shop", "u", id=f"{prefix}t")).decision.recorded
                )
            )
            asked.start()
            assert len(set(await many(service, prefix, 60))) == 60
            await asyncio.to_thread(asked.join)

        asyncio.run(visit("a"))
        assert service.decide(DecisionRequest("shop", "u", id="between")).decision.recorded
        asyncio.run(visit("b"))
        assert found == [True, True]
        assert service.decide(DecisionRequest("shop", "u", id="after")).decision.recorded
        (n,) = service.database.rows("SELECT count(*) FROM decisions")[0]
        assert n == 125


def test_two_loops_in_two_threads_share_a_writer(opened: Callable[[], DecisionService]) -> None:
    """Each future is settled in its own loop."""
    with opened() as service:
        threads = [threading.Thread(target=lambda p=p: asyncio.run(many(service, p, 100))) for p in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert service.database.rows("SELECT count(*) FROM decisions")[0][0] == 200


def test_a_loop_that_waits_too_long_gets_the_fallback(opened: Callable[[], DecisionService]) -> None:
    """The timeout of all waiting decisions is kept by one timer."""
    from tests.engine.decisions.test_failure import lock

    async def ask(service: DecisionService) -> None:
        answers = await asyncio.gather(
            *(service.adecide(DecisionRequest("shop", f"u{i}", id=f"d{i}")) for i in range(5))
        )
        assert [a.decision.rung for a in answers] == ["unrecorded"] * 5

    with opened() as service:
        service.decide(DecisionRequest("shop", "u"))
        service.log.commit_timeout_s = 0.3
        other = lock(service.database.sqlite_path)
        try:
            asyncio.run(ask(service))
        finally:
            other.execute("ROLLBACK")
            other.close()


def test_a_helper_that_dies_is_replaced_while_the_loop_goes_on(tmp_path: Path) -> None:
    """Decisions in the gap are answered as not recorded; then recording comes back by itself."""
    with open_shop(tmp_path):
        pass

    async def visit(service: DecisionService) -> None:
        await many(service, "a", 20)
        os.kill(helper_of(tmp_path), signal.SIGKILL)
        for i in range(400):
            if (await service.adecide(DecisionRequest("shop", "u", id=f"gap{i}"))).decision.recorded and i:
                break
            await asyncio.sleep(0.02)
        else:
            raise AssertionError("recording did not come back")
        await many(service, "b", 20)

    with open_service(tmp_path, secret=SECRET, clock=Clock(), writer="process") as service:
        asyncio.run(visit(service))


def test_an_id_made_here_asked_again_gets_its_answer_and_of_another_subject_a_conflict(tmp_path: Path) -> None:
    """No digest is kept of what had no id; the subject and the placement still tell."""
    from policies.errors import ConflictError

    with open_shop(tmp_path) as service:
        first = service.decide(DecisionRequest("shop", "u1", {"x": 1.0})).decision
        again = service.decide(DecisionRequest("shop", "u1", {"x": 1.0}, id=first.id))
        assert (again.decision, again.is_repeat) == (first, True)
        with pytest.raises(ConflictError):
            service.decide(DecisionRequest("shop", "u2", id=first.id))
