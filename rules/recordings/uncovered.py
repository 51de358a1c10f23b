"""Of how much of a recorded request there are scores, and for which rules that is too little."""

from __future__ import annotations

import numpy as np

from saeguard.rules.model import Rule, RuleSet
from saeguard.rules.recordings.offline import RecordedRequest


def observed_share(request: RecordedRequest) -> float:
    """Tokens on which any feature was observed / tokens, 0 to 1; of no tokens 1."""
    num_tokens = len(request.positions)
    num_observed = np.count_nonzero((~np.isnan(request.scores)).any(axis=1))
    return num_observed / num_tokens if num_tokens else 1.0


def uncovered_rules(ruleset: RuleSet, request: RecordedRequest) -> list[Rule]:
    """The rules that look at the request and whose `min_coverage` it misses."""
    share = observed_share(request)
    return [
        rule
        for rule in ruleset.rules
        if share < rule.min_coverage and rule.scope.admits(request.context)
    ]
