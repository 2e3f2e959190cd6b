"""What a long benchmark has measured so far, so that one that was cut off goes on instead of beginning again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path


class Kept:
    """Numbers by name, appended to a file as they are found.

    Names say everything that a number depends on but the code: empty the folder after a change of the code.

    Parameters
    ----------
    path
        JSON lines ``[name, value]``; None keeps nothing beyond this run.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._values: dict[str, float] = {}
        if path is not None and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            self._values = {str(name): float(value) for name, value in map(json.loads, lines)}

    def value(self, name: str, measure: Callable[[], float]) -> float:
        """The number under a name: read if it is there, measured and written down if not."""
        if name not in self._values:
            self._values[name] = measure()
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([name, self._values[name]]) + "\n")
        return self._values[name]
