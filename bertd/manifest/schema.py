"""The JSON Schema of a manifest's documents: for editors and for checks without bertd."""

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from bertd.manifest import quantities, spec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TITLE = "bertd manifest"


def json_schema() -> dict[str, Any]:
    """The schema of one document: a Model or an Adapter."""
    documents = (spec.ModelDocument, spec.AdapterDocument)
    references, definitions = models_json_schema(
        [(document, "validation") for document in documents],
        by_alias=True,
        schema_generator=_Generator,
    )
    return {
        "$schema": DIALECT,
        "title": TITLE,
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "oneOf": list(references.values()),
        "$defs": definitions["$defs"],
    }


def text() -> str:
    """The schema as it is committed and as `bertd schema` prints it."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


class _Generator(GenerateJsonSchema):
    """Leaves out what tells a reader nothing.

    That is titles made from names, defaults of nothing, and defaults that follow from the fields
    below.
    """

    def field_title_should_be_set(self, schema: object) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        written = super().default_schema(schema)
        default = written.pop("default", None)
        if written.get("pattern") == quantities.DURATION_PATTERN:
            written["default"] = quantities.print_duration(default)
        elif isinstance(default, str | int | float):
            written["default"] = default
        return written
