"""Mistakes in what every rule has, and in the lists and needs beside them."""

from tests.rules.invalid.wrong import Wrong, by_name

LIMIT = "limit: {per: group, max: 1, every: 1d}"
TEMPORAL = (
    "type: temporal_ordered, rules: [fiction, many_clients], group_by: [lora], timespan: 30s}"
)
DAY = "expires: expected a day, such as 2027-01-31, got"
GLOB = "expected a name or a glob of 1 to 200 characters with at most 8 stars, got the text"
SNAKE = "expected a snake_case name of at most 64 characters, got the text"

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
    "mandatory in another word": by_name(
        "mandatory: true", "mandatory: yes", "yes\n", "mandatory: write true instead of yes"
    ),
    "mandatory that nobody notices": by_name(
        "    emit: false\n",
        "    emit: false\n    mandatory: true\n",
        "true\n    signals:\n      story",
        "mandatory: a rule with emit: false raises no alert, so none can be opted out of",
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
