"""The JSON Schema of a rule file, for editors."""

from __future__ import annotations

import re
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from saeguard.rules.loading.syntax import RuleFile

_MEANINGS = {
    "window": "How many tokens back it looks, with the unit: 32 tokens.",
    "agg": "How the scores of the last tokens become one number.",
    "for": "On how many tokens in a row the condition must be true.",
    "keep_firing_for": "A match ends when the condition has been false for more tokens than this.",
    "within": "How many tokens after the first step the last may be.",
    "scope": "Which tokens of which requests the rule looks at.",
    "limit": "How many matches become alerts.",
    "exceptions": "Requests that are let off, with a reason.",
    "expires": "The last day, in UTC, on which the exception applies.",
    "emit": "false: a building block, which raises no alert.",
    "mandatory": "true: no client can opt out of the rule.",
    "min_coverage": "The least part of a request that must have been seen, such as 90%.",
    "condition": "Names of signals, joined by and, or, not, any of, all of, 2 of (a, b_*).",
    "unless": "Cancels what has begun.",
}
"""Of keys that mean the same wherever they stand, for editors to show."""


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
    for name, entry in schema["$defs"].items():
        entry["title"] = _title(name)
        for key, value in entry["properties"].items():
            if key in _MEANINGS:
                value["description"] = _MEANINGS[key]
    return schema


def _title(class_name: str) -> str:
    """`condition rule` of `ConditionRuleEntry`."""
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", class_name.removesuffix("Entry")).lower()
