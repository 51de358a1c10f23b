"""The rule language: load, check and evaluate detection rules. Imports neither torch nor vllm."""

from saeguard.rules.engine import Engine
from saeguard.rules.errors import Location, RuleError, RuleErrors
from saeguard.rules.loading.load import load_rules
from saeguard.rules.matches import Match, Reading, RuleCount, render_message
from saeguard.rules.model import (
    Feature,
    ProbeFeature,
    RouterFeature,
    Rule,
    RuleSet,
    SaeFeature,
    Signal,
)
from saeguard.rules.phases import Phase
from saeguard.rules.scope import RequestContext

__all__ = [
    "Engine",
    "Feature",
    "Location",
    "Match",
    "Phase",
    "ProbeFeature",
    "Reading",
    "RequestContext",
    "RouterFeature",
    "Rule",
    "RuleCount",
    "RuleError",
    "RuleErrors",
    "RuleSet",
    "SaeFeature",
    "Signal",
    "load_rules",
    "render_message",
]
