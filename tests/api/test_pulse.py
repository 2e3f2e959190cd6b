"""A loop that stays behind is noticed; one that was held up once is not."""

from __future__ import annotations

import asyncio
import time

from api.pulse import Pulse


def test_the_smaller_of_the_last_two_delays_counts() -> None:
    """One stall of 0.15 s leaves the lag small; stalls one after the other do not; afterwards it falls again."""

    async def run() -> None:
        pulse = Pulse()
        pulse.start()
        await asyncio.sleep(0.05)
        time.sleep(0.15)
        await asyncio.sleep(0)
        assert pulse.lag_s < 0.1
        for _ in range(3):
            time.sleep(0.15)
            await asyncio.sleep(0)
        assert pulse.lag_s >= 0.1
        deadline = time.monotonic() + 30
        while pulse.lag_s >= 0.1:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.03)
        pulse.stop()

    asyncio.run(run())
