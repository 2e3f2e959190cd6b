"""The shape of the OpenAPI document, which is what we promise: paths, methods, parameters, fields, types, statuses.

``python -m tests.api.openapi_shape`` writes it anew after a change that was meant; the difference belongs in the review.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from api.app import create_app
from api.settings import Settings

GOLDEN = Path(__file__).with_name("openapi_shape.json")


def shape() -> dict[str, Any]:
    """Shape of the document as this version publishes it."""
    found = create_app(Settings()).openapi()
    return {
        "paths": {
            f"{method.upper()} {path}": _operation(operation)
            for path, methods in sorted(found["paths"].items())
            for method, operation in sorted(methods.items())
        },
        "schemas": {name: _schema(s) for name, s in sorted(found["components"]["schemas"].items())},
    }


def _operation(operation: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": operation["operationId"],
        "parameters": [f"{p['in']}:{p['name']}{'' if p['required'] else '?'}" for p in operation.get("parameters", ())],
        "body": _type(operation["requestBody"]["content"]["application/json"]["schema"])
        if "requestBody" in operation
        else None,
        "answers": {
            status: _type(next(iter(answer.get("content", {"": {}}).values())).get("schema", {}))
            for status, answer in sorted(operation["responses"].items())
        },
    }


def _schema(schema: dict[str, Any]) -> Any:
    if "properties" not in schema:
        return _type(schema)
    required = schema.get("required", ())
    return {f"{name}{'' if name in required else '?'}": _type(p) for name, p in sorted(schema["properties"].items())}


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[1])
    if "anyOf" in schema:
        return " | ".join(_type(form) for form in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(repr, schema["enum"]))
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"[{_type(schema.get('items', {}))}]"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"{{{_type(schema['additionalProperties'])}}}"
    return kind


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(shape(), indent=1) + "\n", encoding="utf-8")
    sys.stderr.write(f"{GOLDEN}\n")
