"""The part of SARIF 2.1.0 that saeguard writes, as a JSON Schema.

After sections 3.13 to 3.52 of the OASIS standard: which properties are required, what they hold,
and, as there, no others.
"""

from __future__ import annotations

from typing import Any

LEVELS = ["none", "note", "warning", "error"]


def _object(required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 1}
_MESSAGE = _object("text", text=_TEXT, markdown=_TEXT)
_RULE = _object(
    "id",
    id=_TEXT,
    shortDescription=_MESSAGE,
    fullDescription=_MESSAGE,
    help=_MESSAGE,
    helpUri={"type": "string", "format": "uri"},
    defaultConfiguration=_object("", level={"enum": LEVELS}),
)
_LOCATION = _object(
    "",
    physicalLocation=_object(
        "artifactLocation",
        artifactLocation=_object("uri", uri={"type": "string", "format": "uri-reference"}),
        region=_object("startLine", startLine=_COUNT, startColumn=_COUNT),
    ),
)
_RESULT = _object(
    "ruleId level message locations",
    ruleId=_TEXT,
    ruleIndex={"type": "integer", "minimum": 0},
    level={"enum": LEVELS},
    message=_MESSAGE,
    locations={"type": "array", "items": _LOCATION},
    suppressions={
        "type": "array",
        "uniqueItems": True,
        "items": _object("kind", kind={"enum": ["inSource", "external"]}, justification=_TEXT),
    },
)
_DRIVER = _object(
    "name",
    name=_TEXT,
    version=_TEXT,
    rules={"type": "array", "uniqueItems": True, "items": _RULE},
)
_RUN = _object(
    "tool results",
    tool=_object("driver", driver=_DRIVER),
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    results={"type": "array", "items": _RESULT},
)
SARIF_SCHEMA = _object(
    "version runs",
    **{"$schema": {"type": "string", "format": "uri"}},
    version={"const": "2.1.0"},
    runs={"type": "array", "items": _RUN},
)
