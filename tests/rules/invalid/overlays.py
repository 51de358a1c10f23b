"""Mistakes in overlays."""

from tests.rules.invalid.wrong import Wrong, by_name

COMPARE = "needs exactly one of gt, gte, lt, lte, between"

OVERLAYS = {
    "of an unknown rule": by_name(
        "- rule: lie_in_reasoning",
        "- rule: lie_in_raesoning",
        "lie_in_raesoning",
        "unknown rule 'lie_in_raesoning', did you mean 'lie_in_reasoning'?",
    ),
    "that changes nothing": Wrong(
        "set: {severity: medium, signals.peak.gt: 30% of max, limit.max: 2, for: 4 tokens}\n"
        "    add_exceptions:\n"
        "      - {name: legal, when: {tenant: [legal]}, "
        'reason: "TICKET-812", expires: "2027-01-31"}\n',
        "\n",
        "rule: lie_in_reasoning\n    \n",
        "overlays: needs set or add_exceptions",
    ),
    "at a bad path": Wrong(
        "limit.max: 2",
        "limit..max: 2",
        "limit..max",
        "limit..max: expected a path to a key of the rule, such as signals.peak.gte, "
        "got the text 'limit..max'",
    ),
    "of an unknown signal": by_name(
        "signals.peak.gt",
        "signals.peek.gt",
        "signals.peek.gt",
        "unknown path: signals has no 'peek', did you mean 'peak'?",
    ),
    "below a text": by_name(
        "signals.peak.gt", "severity.peak", "severity.peak", "unknown path: severity has no keys"
    ),
    "of a name": by_name(
        "severity: medium, s",
        "name: other, s",
        "name: other",
        "an overlay cannot change the name of a rule",
    ),
    "with an unknown key": by_name(
        "limit.max", "limit.maxx", "limit.maxx", "unknown key 'maxx', did you mean 'max'?"
    ),
    "with a bad value": by_name(
        "severity: medium",
        "severity: mediun",
        "mediun",
        "severity: expected 'info', 'low', 'medium', 'high' or 'critical', "
        "got the text 'mediun', did you mean 'medium'?",
    ),
    "with a second comparison": by_name(
        "signals.peak.gt:", "signals.peak.gte:", "signals.peak.gte:", f"signal 'peak': {COMPARE}"
    ),
    "with a bad exception": Wrong(
        ', reason: "TICKET-812"', "", "{name: legal", "missing key 'reason'"
    ),
}
