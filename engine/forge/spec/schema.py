"""JSON Schemas of the kinds, for editors: completion, documentation and errors while typing."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from forge.spec.resource import RESOURCE_TYPES


def schemas() -> dict[str, dict[str, Any]]:
    """The schema of each kind, by kind."""
    return {
        kind: {
            "$schema": GenerateJsonSchema.schema_dialect,
            "$id": f"https://forge.invalid/v1/{kind}.json",
            **resource_type.model_json_schema(),
        }
        for kind, resource_type in RESOURCE_TYPES.items()
    }
