"""Finds the operation of a request in one step a path segment, however many operations there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

from api.operation import Operation


@dataclass(slots=True)
class _Node:
    """What may follow a part of a path."""

    named: dict[str, _Node] = field(default_factory=dict)
    any: _Node | None = None
    operation: Operation | None = None
    parameters: tuple[str, ...] = ()


_MAX_FOUND, _MAX_KEPT_PATH = 1_000, 200


class OperationDispatch:
    """ASGI layer that runs an operation straight away and leaves everything else to the application.

    The same operations are routes of the application too, and answer there what is no plain match (another method, a path
    behind a proxy's prefix): nothing is answered here that Starlette's router, asked route by route, would answer otherwise.
    """

    def __init__(self, app: ASGIApp, operations: Sequence[Operation]) -> None:
        self._app = app
        self._trees: dict[str, _Node] = {}
        self._found: dict[tuple[str, str], tuple[Operation, Mapping[str, str]] | None] = {}
        for operation in operations:
            self._add(operation)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and not scope.get("root_path"):
            found = self.find(scope["method"], scope["path"])
            if found is not None:
                await found[0].run(scope, receive, send, found[1])
                return
        await self._app(scope, receive, send)

    def find(self, method: str, path: str) -> tuple[Operation, Mapping[str, str]] | None:
        """Operation of a method and a path, with the path's parameters; None where the router has to look.

        Most requests of a site go to a few addresses, so what was found lately is kept.
        """
        asked = (method, path)
        try:
            return self._found[asked]
        except KeyError:
            if len(path) > _MAX_KEPT_PATH:
                return self._look(method, path)
            if len(self._found) >= _MAX_FOUND:
                self._found.clear()
            found = self._found[asked] = self._look(method, path)
            return found

    def _look(self, method: str, path: str) -> tuple[Operation, Mapping[str, str]] | None:
        node = self._trees.get(method)
        if node is None:
            return None
        values: list[str] = []
        for segment in path.split("/")[1:]:
            following = node.named.get(segment)
            if following is None:
                following = node.any
                if following is None or not segment:
                    return None
                values.append(segment)
            node = following
        if node.operation is None:
            return None
        return node.operation, dict(zip(node.parameters, values, strict=True))

    def _add(self, operation: Operation) -> None:
        node = self._trees.setdefault(operation.method, _Node())
        parameters: list[str] = []
        for segment in operation.path.split("/")[1:]:
            if not segment.startswith("{"):
                node = node.named.setdefault(segment, _Node())
                continue
            if node.any is None:
                node.any = _Node()
            node = node.any
            parameters.append(segment[1:-1])
        node.operation, node.parameters = operation, tuple(parameters)
