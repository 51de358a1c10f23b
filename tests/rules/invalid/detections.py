"""Mistakes in conditions, sequences and correlations."""

from tests.rules.invalid.wrong import Wrong, by_name

PEAK = "peak: {feature: deceit, agg: max, window: 32 tokens, gt: 4.0}"
STEP = "{when: said, phase: [answer, tool_call]}"
PLACEHOLDERS = "the placeholders are rule.name|title|severity, request.model|id|tenant|lora|client"
GROUP_PLACEHOLDERS = f"{PLACEHOLDERS}, count, timespan, group.tenant|model"

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
