"""What a person watches while the demo runs: one line per step, on stderr, with its time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Step:
    """One step that is running: says what it is doing and how far it is."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=None, note="")

    def note(self, text: str) -> None:
        """Show a few words beside the title."""
        self._progress.update(self._task, note=text[:70])

    def advance(self, done: int, total: int) -> None:
        """Show how far the step is."""
        self._progress.update(self._task, completed=done, total=total)


class Narrator:
    """Tells the story step by step, and remembers how long each took."""

    def __init__(self, *, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr, highlight=False)
        self.seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        """One line of words."""
        self.console.print(text, soft_wrap=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Run a step with a progress bar; leaves one line with its time behind."""
        started = time.monotonic()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            yield Step(progress, title)
        self.seconds[title] = time.monotonic() - started
        self.console.print(f"[green]✓[/green] {title} [dim]({self.seconds[title]:.0f} s)[/dim]", soft_wrap=True)
