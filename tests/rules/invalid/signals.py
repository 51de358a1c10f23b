"""Mistakes in signals."""

from tests.rules.invalid.wrong import Wrong, by_name

PEAK = "peak: {feature: deceit, agg: max, window: 32 tokens, gt: 4.0}"
PLANE = "plane: {features: [x, y], combine: l2, agg: max"
TURN = "turn: {features: [x, y], combine: angle, agg: value, between: [170, -170]}"
COMPARE = "needs exactly one of gt, gte, lt, lte, between"
WINDOW = "expected 1 to 999 tokens with the unit, such as '16 tokens', got"
PART = "expected a number or a part of the maximum, such as '40% of max', got"

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
