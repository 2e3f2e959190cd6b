"""The OpenAPI document of the operations: made from the same objects that run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.errors import TABLE
from api.fields import Reply
from api.operation import Operation

_TEMPLATE = "#/components/schemas/{model}"
_ERROR_REF = {"$ref": "#/components/schemas/ErrorReply"}
_PARAMETER = re.compile(r"{(\w+)}")
Mode = Literal["validation", "serialization"]


class ErrorDetail(Reply):
    """One fault of a body."""

    place: str
    problem: str


class ErrorContent(Reply):
    """What went wrong, and what to do next."""

    code: str
    message: str
    details: list[ErrorDetail] | None = None
    request_id: str | None = None


class ErrorReply(Reply):
    """The one shape of every error."""

    error: ErrorContent


def document(operations: Sequence[Operation], *, title: str, version: str, description: str) -> dict[str, Any]:
    """Build the OpenAPI 3.1 document."""
    models: list[tuple[type[BaseModel], Mode]] = [(ErrorReply, "serialization")]
    models += [(o.body, "validation") for o in operations if o.body is not None]
    models += [(o.reply, "serialization") for o in operations if o.reply is not None]
    references, schemas = models_json_schema(list(dict.fromkeys(models)), ref_template=_TEMPLATE)
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, references)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": description},
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key: nxo_…"}},
        },
    }


def _operation(operation: Operation, references: Mapping[Any, dict[str, Any]]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(operation.path)
    ]
    parameters += [
        {"name": name, "in": "query", "required": False, "schema": dict(schema)}
        for name, schema in operation.query.items()
    ]
    if operation.method != "GET":
        parameters.append(_header("Idempotency-Key", "A retry with the same key and body gets the first answer"))
    if operation.scope is not None:
        parameters.append(_header("Nextoffer-Time", "Sandbox only: the moment at which the request happens, ISO 8601"))
    responses: dict[str, Any] = {str(operation.status): {"description": "Done"}}
    if operation.reply is not None:
        schema = references[operation.reply, "serialization"]
        responses[str(operation.status)]["content"] = {"application/json": {"schema": schema}}
    elif operation.path == "/metrics":
        responses["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    for status in _error_statuses(operation):
        responses[str(status)] = {
            "description": "Refused; the message says what to do",
            "content": {"application/json": {"schema": _ERROR_REF}},
        }
    if operation.path == "/readyz":
        responses["503"] = {"description": "Not ready", "content": responses["200"]["content"]}
    out: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": (operation.handler.__doc__ or "").strip(),
        "tags": [operation.tag],
        "responses": responses,
    }
    if parameters:
        out["parameters"] = parameters
    if operation.body is not None:
        out["requestBody"] = {
            "required": not operation.is_body_optional,
            "content": {"application/json": {"schema": references[operation.body, "validation"]}},
        }
    if operation.scope is not None:
        out["security"] = [{"key": []}]
    return out


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": {"type": "string"}}


def _error_statuses(operation: Operation) -> list[int]:
    if operation.scope is None:
        return []
    known = {answer.status for _, answer in TABLE} - {500}
    return sorted(known if operation.body is not None else known - {413, 422})
