"""Files that are wrong in one way each: `complete.yaml`, edited."""

from dataclasses import dataclass
from pathlib import Path

COMPLETE = Path(__file__).with_name("complete.yaml")


@dataclass(frozen=True)
class Wrong:
    """What is replaced by what, and the one finding that this yields."""

    old: str
    new: str
    at: str
    """Text at whose first occurrence the finding is."""
    message: str
    by_shape: bool = True
    """Whether the shape alone tells, so that the JSON Schema refuses the file, too."""

    def text(self) -> str:
        """The wrong file."""
        text = COMPLETE.read_text()
        assert self.old in text
        return text.replace(self.old, self.new, 1)

    def finding(self) -> str:
        """`line:column: message`"""
        text = self.text()
        index = text.index(self.at)
        column = index - text.rfind("\n", 0, index)
        return f"{text.count(chr(10), 0, index) + 1}:{column}: {self.message}"


def by_name(old: str, new: str, at: str, message: str) -> Wrong:
    """A mistake that only names tell, or numbers that do not fit each other."""
    return Wrong(old, new, at, message, by_shape=False)


PEAK = "peak: {feature: deceit, agg: max, window: 32 tokens, gt: 4.0}"
PLANE = "plane: {features: [x, y], combine: l2, agg: max"
TURN = "turn: {features: [x, y], combine: angle, agg: value, between: [170, -170]}"
LIMIT = "limit: {per: group, max: 1, every: 1d}"
COUNT = "{type: value_count, field: client, rules: [campaign], timespan: 1d, gt: 3}"
TEMPORAL = (
    "type: temporal_ordered, rules: [fiction, many_clients], group_by: [lora], timespan: 30s}"
)
STEP = "{when: said, phase: [answer, tool_call]}"
COMPARE = "needs exactly one of gt, gte, lt, lte, between"
WINDOW = "expected 1 to 999 tokens with the unit, such as '16 tokens', got"
PART = "expected a number or a part of the maximum, such as '40% of max', got"
DAY = "expires: expected a day, such as 2027-01-31, got"
GLOB = "expected a name or a glob of 1 to 200 characters with at most 8 stars, got the text"
SNAKE = "expected a snake_case name of at most 64 characters, got the text"

PLACEHOLDERS = "the placeholders are rule.name|title|severity, request.model|id|tenant|lora|client"
GROUP_PLACEHOLDERS = f"{PLACEHOLDERS}, count, timespan, group.tenant|model"

SIGNALS = {
    "no aggregator": Wrong("agg: sum, ", "", "{feature: deceit, window: 8", "missing key 'agg'"),
    "no k": Wrong("k: 4, ", "", "{feature: deceit, agg: topk", "missing key 'k'"),
    "k of zero": Wrong("k: 4", "k: 0", "0, window: 64", "k: must be greater than or equal to 1"),
    "k as text": Wrong(
        "k: 4", "k: four", "four", "k: expected a whole number, got the text 'four'"
    ),
    "k above the window": by_name(
        "k: 4, window: 64",
        "k: 4, window: 3",
        "4, window: 3 tokens",
        "k: a window of 3 tokens never holds 4 scores",
    ),
    "rolling without unit": Wrong(
        "rolling: 4 tokens", "rolling: 4", "4, window: 64", f"rolling: {WINDOW} the number 4"
    ),
    "noisy_or without one": Wrong(
        "one: 90% of max, ", "", "{feature: deceit, agg: noisy_or", "missing key 'one'"
    ),
    "noisy_or upside down": by_name(
        "zero: 1, one: 90%",
        "zero: 13, one: 90%",
        "90% of max",
        "one: 12.6 is not above zero, which is 13",
    ),
    "part of a maximum as a probability": Wrong(
        "lte: 0.9",
        "lte: 90% of max",
        "90% of max}",
        "lte: expected a number, got the text '90% of max'",
    ),
    "part of a maximum as a count": Wrong(
        "window: 32 tokens, gte: 3",
        "window: 32 tokens, gte: 30% of max",
        "30% of max}",
        "gte: expected a number, got the text '30% of max'",
    ),
    "part without of max": Wrong("40% of max", "40%", "40%", f"gte: {PART} the text '40%'"),
    "negative part": Wrong(
        "40% of max", "-40% of max", "-40%", f"gte: {PART} the text '-40% of max'"
    ),
    "number as text": Wrong(
        "gte: 4.0",
        "gte: '4.0'",
        "'4.0'",
        "gte: expected a number, got the text '4.0'; write 4.0 without quotes",
    ),
    "no maximum known": by_name(
        ", max: 2.5",
        "",
        "40% of max}\n    sequence",
        "gte: '40% of max' needs the max of feature 'claim'",
    ),
    "maximum of zero": Wrong("max: 3.0", "max: 0", "0}\n  y", "max: must be greater than 0"),
    "between of one": Wrong(
        "[1.5, 50% of max]", "[1.5]", "[1.5]", "between: must have at least 2 items, not 1"
    ),
    "between of three": Wrong(
        "[170, -170]", "[1, 2, 3]", "[1, 2, 3]", "between: must have at most 2 items, not 3"
    ),
    "between as a number": Wrong(
        "[170, -170]", "170", "170}", "between: expected a list, got the number 170"
    ),
    "between upside down": by_name(
        "[1.5, 50% of max]",
        "[9.5, 50% of max]",
        "[9.5",
        "between: the lower bound 9.5 is above the upper bound 3.5",
    ),
    "angle beyond half a turn": by_name(
        "[170, -170]",
        "[170, 190]",
        "[170, 190]",
        "between: an angle is between -180 and 180 degrees",
    ),
    "part of an angle's maximum": by_name(
        "[170, -170]",
        "[40% of max, 90]",
        "40% of max, 90",
        "between: '40% of max' has no meaning: an angle has no max",
    ),
    "angle of three": Wrong(
        TURN,
        TURN.replace("[x, y]", "[x, y, claim]"),
        "[x, y, claim]",
        "features: an angle is of exactly two features",
    ),
    "angle of an average": Wrong(
        "combine: l2",
        "combine: angle",
        "angle, agg: max",
        "combine: expected 'max', 'sum' or 'l2', got the text 'angle'; an angle needs agg: value",
    ),
    "group without combine": Wrong(
        ", combine: l2",
        "",
        "[x, y], agg",
        "features: several features need combine: max, sum, l2 or angle",
    ),
    "combine without a group": Wrong(
        "{feature: deceit, agg: value, ",
        "{feature: deceit, combine: sum, agg: value, ",
        "sum, agg: value",
        "combine: goes with features, not with feature",
    ),
    "feature and features": Wrong(
        PLANE,
        PLANE.replace("{features", "{feature: x, features"),
        "features: [x, y]",
        "signal 'plane': needs exactly one of feature and features",
    ),
    "no feature": Wrong(
        "{feature: deceit, agg: value",
        "{agg: value",
        "now: {agg",
        "signal 'now': needs exactly one of feature and features",
    ),
    "group of one": Wrong(
        PLANE, PLANE.replace("[x, y]", "[x]"), "[x]", "features: must have at least 2 items, not 1"
    ),
    "group with a repeated feature": Wrong(
        PLANE, PLANE.replace("[x, y]", "[x, x]"), "[x, x]", "features: names a feature twice"
    ),
    "unknown feature in a group": by_name(
        PLANE,
        PLANE.replace("[x, y]", "[x, deciet]"),
        "deciet",
        "unknown feature 'deciet', did you mean 'deceit'?",
    ),
    "two comparisons": Wrong(
        "gt: 4.0", "gt: 4.0, between: [1, 2]", "between: [1, 2]", f"signal 'peak': {COMPARE}"
    ),
    "number beyond all scores": Wrong(
        "gte: 9}", "gte: 1.0e+39}", "1.0e+39", "gte: must be at most 1e+38"
    ),
    "reserved signal name": by_name(
        PEAK,
        "any: {feature: deceit, agg: value, gt: 1}\n      " + PEAK,
        "any:",
        "'any' is a word of the condition language",
    ),
}

RULES = {
    "no detection": Wrong(
        f"    correlate: {{{TEMPORAL}\n",
        "",
        "id: 00000000-0000-4000-8000-000000000006",
        "a rule needs exactly one of condition, sequence, correlate",
    ),
    "two detections": Wrong(
        "    sequence:\n",
        "    condition: lie\n    sequence:\n",
        "sequence:\n",
        "a rule needs exactly one of condition, sequence, correlate",
    ),
    "for in a sequence": Wrong(
        "    limit: {per: request, max: 2}\n",
        "    for: 2 tokens\n",
        "for: 2 tokens",
        "'for' does not go with a sequence rule",
    ),
    "keep_firing_for in a correlation": Wrong(
        LIMIT,
        "keep_firing_for: 2 tokens",
        "keep_firing_for: 2",
        "'keep_firing_for' does not go with a correlate rule",
    ),
    "signals in a correlation": Wrong(
        "    action: alert\n",
        "    signals: {}\n",
        "signals: {}",
        "'signals' does not go with a correlate rule",
    ),
    "scope in a correlation": Wrong(
        "    action: alert\n",
        "    scope: {}\n",
        "scope: {}",
        "'scope' does not go with a correlate rule",
    ),
    "unknown key in a rule": Wrong(
        "keep_firing_for:",
        "keep_fireing_for:",
        "keep_fireing_for",
        "unknown key 'keep_fireing_for', did you mean 'keep_firing_for'?",
    ),
    "time for tokens": Wrong(
        "keep_firing_for: 32 tokens",
        "keep_firing_for: 8s",
        "8s",
        "keep_firing_for: expected 1 to 9999 tokens with the unit, such as '16 tokens', "
        "got the text '8s'",
    ),
    "coverage above all": Wrong(
        "90%\n",
        "190%\n",
        "190%",
        "min_coverage: expected a part from '0%' to '100%', such as '90%', got the text '190%'",
    ),
    "coverage as a number": Wrong(
        "90%\n",
        "0.9\n",
        "0.9\n",
        "min_coverage: expected a part from '0%' to '100%', such as '90%', got the number 0.9",
    ),
    "unknown action": Wrong(
        "action: stop",
        "action: halt",
        "halt",
        "action: expected 'alert' or 'stop', got the text 'halt', did you mean 'alert'?",
    ),
    "emit as text": Wrong(
        "action: stop",
        "emit: no thanks",
        "no thanks",
        "emit: expected true or false, got the text 'no thanks'",
    ),
    "emit in another word": by_name(
        "emit: false", "emit: off", "off\n", "emit: write false instead of off"
    ),
    "stop that is never heard of": by_name(
        "    emit: false\n",
        "    emit: false\n    action: stop\n",
        "stop\n    signals:\n      story",
        "action: a rule with emit: false raises no alert, so it stops nothing",
    ),
    "limit of a group without groups": Wrong(
        "{per: request, max: 2}",
        "{per: group, max: 2, every: 1h}",
        "group, max: 2",
        "per: expected 'request' or 'rule', got the text 'group'",
    ),
    "limit of a rule without every": Wrong(
        ", every: 1h",
        "",
        "limit: {per: rule",
        "limit: per: rule needs every, the span of time it counts in",
    ),
    "limit of a group without every": Wrong(
        ", every: 1d}",
        "}",
        "limit: {per: group",
        "limit: per: group needs every, the span of time it counts in",
    ),
    "limit of none": Wrong(
        "{per: request, max: 2}",
        "{max: 0}",
        '0}\n    message: "{rule.name}',
        "max: must be greater than or equal to 1",
    ),
    "every without unit": Wrong(
        "every: 1h",
        "every: 60",
        "60}",
        "every: expected a time in s, m, h or d with its unit, such as '10m', got the number 60",
    ),
    "glob with many stars": Wrong(
        '"b-*"', '"*********"', '"*********"', f"lora: {GLOB} '*********'"
    ),
    "very long glob": Wrong('"b-*"', "b" * 201, "b" * 201, f"lora: {GLOB} '{'b' * 60}'"),
    "unknown list": by_name(
        "[$agents, other]",
        "[$agent, other]",
        "$agent, other",
        "unknown list '$agent', did you mean 'agents'?",
    ),
    "unused list": by_name(
        "lists:\n", "lists:\n  spare: [a]\n", "spare", "list 'spare' is never used"
    ),
    "list in a list": by_name(
        "[tenant-a, tenant-b]", "[tenant-a, $b]", "$b", "$b: a list cannot hold another list"
    ),
    "lists that hold too much": by_name(
        "[$agents, other]",
        f"[{', '.join(['$agents'] * 501)}]",
        "[$agents, $agents",
        "more than 1,000 texts in its lists",
    ),
    "empty list": Wrong("[tenant-a, tenant-b]", "[]", "[]", "agents: must not be empty"),
    "unused need": by_name(
        "needs: {", "needs: {other: 'a thing', ", "other", "no rule here uses 'other'"
    ),
    "need that nobody defines": by_name(
        "  deceit: {sae: *sae, index: 12",
        "  lie: {sae: *sae, index: 12",
        'deceit: "the model',
        "the rules of 'complete' need the feature 'deceit' (the model is about to mislead its "
        "user), and no file defines it; add a mapping file with `features: {deceit: ...}`",
    ),
}

EXCEPTIONS = {
    "no reason": Wrong(
        '        reason: "sanctioned"\n', "", "name: red_team", "missing key 'reason'"
    ),
    "blank reason": Wrong(
        'reason: "sanctioned"',
        'reason: " "',
        '" "',
        "reason: expected a text that is not blank, got the text ' '",
    ),
    "for everybody": Wrong(
        'when: {tenant: [$agents], model: ["*"], lora: [c], client: [cli]}',
        "when: {}",
        "when: {}",
        "when: needs at least one of tenant, model, lora and client",
    ),
    "by an unknown key": Wrong(
        "client: [cli]",
        "clients: [cli]",
        "clients",
        "unknown key 'clients', did you mean 'client'?",
    ),
    "no such day": Wrong(
        "2027-01-31", "2027-02-30", '"2027-02-30"', f"{DAY} the text '2027-02-30'"
    ),
    "moment for a day": Wrong(
        "expires: 2027-03-01", "expires: 2027-03-01 10:00:00", "2027-03-01 10", f"{DAY} a datetime"
    ),
    "name twice": by_name(
        "{name: legal",
        "{name: red_team",
        "red_team, when",
        "the rule has an exception 'red_team' already",
    ),
    "bad name": Wrong("{name: legal", "{name: Legal", "Legal", f"name: {SNAKE} 'Legal'"),
}

CONDITIONS = {
    "glob of nothing": by_name(
        "any of d*", "any of d_*", "d_*", "condition: no signal matches 'd_*'"
    ),
    "more than there are": by_name(
        "2 of (total", "5 of (total", "5 of (total", "condition: 5 of 4 signal(s) is not possible"
    ),
    "none of": by_name(
        "2 of (total", "0 of (total", "0 of (total", "condition: 0 of 4 signal(s) is not possible"
    ),
    "glob with five stars": by_name(
        "any of d*",
        "any of d*e*n*s*e*",
        "d*e*n*s*e*",
        "condition: more than 4 stars in 'd*e*n*s*e*'",
    ),
    "glob outside a quantifier": by_name(
        "any of d*", "dense*", "dense*", "condition: unexpected 'dense*'"
    ),
    "unknown name near a block": by_name(
        "and fiction and",
        "and fictoin and",
        "fictoin",
        "condition: unknown signal 'fictoin', did you mean 'fiction'?",
    ),
    "rule that is no block": by_name(
        "and fiction and",
        "and lie_then_claim and",
        "lie_then_claim and",
        "condition: rule 'lie_then_claim' is no building block: "
        "that needs a condition and emit: false",
    ),
    "correlation as a block": by_name(
        "{when: lie and not fiction,",
        "{when: lie and not many_clients,",
        "many_clients, phase",
        "when: rule 'many_clients' is no building block: that needs a condition and emit: false",
    ),
    "signal and block": by_name(
        PEAK,
        "fiction: {feature: claim, agg: value, gt: 1}\n      " + PEAK,
        "fiction and 1",
        "condition: 'fiction' is both a signal and a building block",
    ),
}

SEQUENCES = {
    "one step": Wrong(
        "not fiction, phase: [reasoning]}\n        - {when: said",
        "said",
        "- {when: lie and",
        "steps: must have at least 2 items, not 1",
    ),
    "no within": Wrong("      within: 2048 tokens\n", "", "steps:\n", "missing key 'within'"),
    "within a time": Wrong(
        "within: 2048 tokens",
        "within: 10m",
        "10m\n      unless",
        "within: expected 1 to 999999 tokens with the unit, such as '2048 tokens', "
        "got the text '10m'",
    ),
    "step without when": Wrong(
        "{when: any of (fiction), phase: [answer]}",
        "{phase: [answer]}",
        "{phase: [answer]}",
        "missing key 'when'",
    ),
    "unknown key in a step": Wrong(
        STEP,
        "{when: said, phases: [answer]}",
        "phases: [answer]",
        "unknown key 'phases', did you mean 'phase'?",
    ),
    "unknown signal in a step": by_name(
        STEP, "{when: siad}", "siad", "when: unknown signal 'siad', did you mean 'said'?"
    ),
}

CORRELATIONS = {
    "unknown type": Wrong(
        "type: event_count",
        "type: count",
        "count\n",
        "type: expected 'event_count', 'value_count', 'temporal' or 'temporal_ordered', "
        "got the text 'count', did you mean 'value_count'?",
    ),
    "no rules": Wrong("rules: [campaign]", "rules: []", "[], timespan", "rules: must not be empty"),
    "unknown rule": by_name(
        "rules: [campaign]",
        "rules: [campaing]",
        "campaing",
        "unknown rule 'campaing', did you mean 'campaign'?",
    ),
    "rule named twice": Wrong(
        "rules: [campaign]",
        "rules: [campaign, campaign]",
        "[campaign, campaign]",
        "rules: names one twice",
    ),
    "no timespan": Wrong(
        ", timespan: 30s", "", "{type: temporal_ordered", "missing key 'timespan'"
    ),
    "timespan in tokens": Wrong(
        "timespan: 30s",
        "timespan: 30 tokens",
        "30 tokens",
        "timespan: expected a time in s, m, h or d with its unit, such as '10m', "
        "got the text '30 tokens'",
    ),
    "count without a threshold": Wrong(
        ", gt: 3}",
        "}",
        "correlate: {type: value_count",
        "correlate: value_count needs exactly one of gt and gte",
    ),
    "count with two thresholds": Wrong(
        ", gt: 3}",
        ", gt: 3, gte: 4}",
        "gte: 4}",
        "correlate: value_count needs exactly one of gt and gte",
    ),
    "broken threshold": Wrong(
        ", gt: 3}", ", gt: 3.5}", "3.5}", "gt: expected a whole number, got the number 3.5"
    ),
    "temporal with a threshold": Wrong(
        "timespan: 30s",
        "gte: 2, timespan: 30s",
        "2, timespan",
        "gte: does not go with temporal_ordered",
    ),
    "temporal of one": Wrong(
        "[fiction, many_clients]",
        "[fiction]",
        "[fiction]",
        "rules: temporal_ordered needs at least two",
    ),
    "temporal grouped by rule": Wrong(
        "group_by: [lora]",
        "group_by: [rule]",
        "[rule]",
        "group_by: rule keeps the rules of temporal_ordered apart from each other",
    ),
    "values of nothing": Wrong(
        "field: client, ",
        "",
        "correlate: {type: value_count",
        "correlate: value_count needs field, whose values it counts",
    ),
    "field of an event_count": Wrong(
        "      type: event_count\n",
        "      type: event_count\n      field: client\n",
        "client\n      rules",
        "field: does not go with event_count",
    ),
    "field that is a group": by_name(
        "field: client,",
        "field: client, group_by: [client],",
        "client, group_by",
        "field: client is in group_by, so there is only ever one",
    ),
    "unknown group": Wrong(
        "group_by: [lora]",
        "group_by: [user]",
        "user]",
        "group_by: expected 'tenant', 'model', 'lora', 'client' or 'rule', got the text 'user'",
    ),
    "grouped twice": Wrong(
        "group_by: [lora]", "group_by: [lora, lora]", "[lora, lora]", "group_by: names one twice"
    ),
    "cycle": by_name(
        "rules: [campaign]",
        "rules: [campaign, together]",
        "together]",
        "correlations that wait for each other: many_clients -> together -> many_clients",
    ),
    "signal in a message": by_name(
        "{count} in",
        "{signal.peak.value} in",
        "{signal.peak.value} in",
        f"message: unknown placeholder {{signal.peak.value}}; {GROUP_PLACEHOLDERS}",
    ),
    "foreign group in a message": by_name(
        "{group.model}",
        "{group.lora}",
        "{group.lora}",
        f"message: unknown placeholder {{group.lora}}; {GROUP_PLACEHOLDERS}",
    ),
    "count in a message of a condition": by_name(
        "{signal.peak.value:.2f}",
        "{count}",
        "{count}",
        f"message: unknown placeholder {{count}}; {PLACEHOLDERS}, "
        "signal.NAME.value|threshold|token|position",
    ),
    "unknown signal of a block in a message": by_name(
        "{signal.fiction.story.token!r}",
        "{signal.fiction.tale.token}",
        "{signal.fiction.tale",
        "message: unknown signal 'fiction.tale', did you mean 'fiction.story'?",
    ),
}

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

INVALID = {
    f"{part}: {name}": wrong
    for part, table in {
        "signal": SIGNALS,
        "rule": RULES,
        "exception": EXCEPTIONS,
        "condition": CONDITIONS,
        "sequence": SEQUENCES,
        "correlation": CORRELATIONS,
        "overlay": OVERLAYS,
    }.items()
    for name, wrong in table.items()
}
