"""Which requests, and which of their tokens, a rule looks at."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from saeguard.rules.phases import Phase

_MAX_NAME = 200
_NUM_LAST = 20


def shortened(name: str, max_length: int = _MAX_NAME) -> str:
    """What clients call things may be of any length, and is kept with each alert. Of what is too
    long the end is kept, too: there vLLM makes ids differ. No glob is for a name that was cut.
    """
    if len(name) <= max_length:
        return name
    return f"{name[: max_length - _NUM_LAST - 1]}…{name[-_NUM_LAST:]}"


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What rules may know about a request, besides its scores."""

    model: str = ""
    lora: str | None = None
    tenant: str | None = None
    client: str | None = None
    id: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """An empty tuple of globs admits everything, requests that have no such name included."""

    phases: frozenset[Phase]
    models: tuple[str, ...] = ()
    loras: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()

    def admits(self, request: RequestContext) -> bool:
        """Whether the rule looks at this request at all."""
        return (
            matches_glob(request.model, self.models)
            and matches_glob(request.lora, self.loras)
            and matches_glob(request.tenant, self.tenants)
        )


def matches_glob(name: str | None, globs: tuple[str, ...]) -> bool:
    """Whether the name fits one of them. No globs at all fit everything; no name fits none.

    `*` stands for any characters and `?` for one. Brackets are themselves: names have them, too.
    """
    if not globs:
        return True
    return name is not None and any(fnmatchcase(name, glob.replace("[", "[[]")) for glob in globs)
