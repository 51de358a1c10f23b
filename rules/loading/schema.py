"""The JSON Schema of a rule file, for editors."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from saeguard.rules.loading.syntax import RuleFile


class _Generator(GenerateJsonSchema):
    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """Names that do not match the pattern are refused, not merely left unchecked."""
        return super().dict_schema(schema) | {"additionalProperties": False}

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default") is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """An optional key may be absent, but a rule file has no nulls."""
        return self.generate_inner(schema["schema"])


def json_schema() -> dict[str, Any]:
    """What `syntax.RuleFile` says, and top-level `x-` keys; it cannot check references by name.

    Put `# yaml-language-server: $schema=<file>` on the first line of a rule file to use it.
    """
    schema = RuleFile.model_json_schema(schema_generator=_Generator)
    schema["$schema"] = _Generator.schema_dialect
    schema["title"] = "saeguard rules"
    schema["patternProperties"] = {"^x-": {}}
    return schema
