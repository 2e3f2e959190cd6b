"""What a long benchmark has measured so far, so that one that was cut off goes on instead of beginning again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Kept:
    """Numbers, and lists of them, by name, appended to a file as they are found.

    Names say everything that a number depends on but the code: empty the folder after a change of the code.

    Parameters
    ----------
    path
        JSON lines ``[name, value]``; None keeps nothing beyond this run.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._found: dict[str, Any] = {}
        if path is not None and path.exists():
            self._found = dict(map(json.loads, path.read_text(encoding="utf-8").splitlines()))

    def value(self, name: str, measure: Callable[[], float]) -> float:
        """The number under a name: read if it is there, measured and written down if not."""
        if name not in self._found:
            self.put(name, measure())
        return float(self._found[name])

    def get(self, name: str) -> Any:
        """What is kept under a name; None where nothing is."""
        return self._found.get(name)

    def put(self, name: str, found: Any) -> None:
        """Keep something that JSON can hold."""
        self._found[name] = found
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, found]) + "\n")
