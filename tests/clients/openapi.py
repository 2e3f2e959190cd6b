"""What the OpenAPI document says, for tests: schemas with references resolved, and whether a field is in them."""

from __future__ import annotations

from typing import Any

import jsonschema

from api.app import create_app
from api.settings import Settings


def document() -> dict[str, Any]:
    """The document that a server publishes."""
    found: dict[str, Any] = create_app(Settings()).openapi()
    return found


def operation(found: dict[str, Any], method: str, path: str) -> dict[str, Any]:
    """Operation at a concrete path."""
    for template, methods in found["paths"].items():
        parts, wanted = template.split("/"), path.split("/")
        fits = len(parts) == len(wanted) and all(
            p.startswith("{") or p == w for p, w in zip(parts, wanted, strict=True)
        )
        # decisions:batch shares a segment with its noun
        if fits and method.lower() in methods:
            chosen: dict[str, Any] = methods[method.lower()]
            return chosen
    raise AssertionError(f"{method} {path} is not in the OpenAPI document")


def check_body(found: dict[str, Any], chosen: dict[str, Any], body: Any) -> None:
    """A request body has the documented form."""
    schema = chosen["requestBody"]["content"]["application/json"]["schema"]
    jsonschema.validate(body, {**schema, "components": found["components"]})


def has_field(found: dict[str, Any], schema: dict[str, Any], path: list[str]) -> bool:
    """Whether every answer of a schema's some form has a field; ``*`` is any entry of a list or table."""
    if "$ref" in schema:
        return has_field(found, found["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], path)
    if "anyOf" in schema:
        return any(has_field(found, form, path) for form in schema["anyOf"])
    if not path:
        return True
    head, *rest = path
    if head == "*":
        return has_field(found, schema.get("items", {}), rest)
    return head in schema.get("required", ()) and has_field(found, schema["properties"][head], rest)


def answer_schema(chosen: dict[str, Any]) -> dict[str, Any]:
    """Schema of the answer of an operation that succeeded."""
    schema: dict[str, Any] = chosen["responses"]["200"]["content"]["application/json"]["schema"]
    return schema
