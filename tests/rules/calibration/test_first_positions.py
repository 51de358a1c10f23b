"""Where rules first match is what the engine says of one request after the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from calibration_data import RULES, examples, load

from saeguard.rules import RequestContext
from saeguard.rules.calibration.first_positions import NEVER, first_positions
from saeguard.rules.matches import Match
from saeguard.rules.recordings.offline import play, request_keys

EXCEPTED = RULES.replace(
    "    message:",
    "    exceptions: [{name: own, reason: test, when: {tenant: [blue]}}]\n"
    "    limit: {per: rule, max: 1, every: 1h}\n    message:",
)


def one_by_one(ruleset, requests) -> list[int]:
    found = {}
    for decision in play(ruleset, requests):
        if decision.outcome in ("alert", "limited") and isinstance(decision.match, Match):
            found.setdefault(decision.match.key, decision.match.position)
    return [found.get(key, NEVER) for key in request_keys(requests)]


def test_batches_say_what_one_request_after_the_other_says(tmp_path: Path):
    ruleset = load(tmp_path, EXCEPTED)
    rng = np.random.default_rng(0)
    requests = []
    for i, example in enumerate(examples(700)):
        request = replace(
            example.request,
            context=RequestContext(id=str(i % 650), tenant="blue" if i % 7 == 0 else None),
            time_ns=int(rng.integers(10**9)),
            phases=rng.choice([1, 2, 3], 24).astype(np.uint8),
        )
        if i % 3 == 0:  # other columns in between
            request = replace(request, columns=("calm", "lie"), scores=request.scores[:, ::-1])
        requests.append(request)
    requests[5] = replace(
        requests[5], scores=requests[5].scores[:0], positions=requests[5].positions[:0],
        phases=requests[5].phases[:0],
    )  # fmt: skip
    found = first_positions(ruleset, requests)["lying"].tolist()
    assert found == one_by_one(ruleset, requests)
    assert 100 < sum(position != NEVER for position in found) < 650
    assert all(found[i] == NEVER for i in range(0, 700, 7))
