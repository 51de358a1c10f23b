"""Rules for the tests of lints, and what is said about them."""

from datetime import date

import yaml

from saeguard.rules import load_rules
from saeguard.rules.lints import lint_rules

TODAY = date(2026, 11, 21)


def rule(name="strong_lie", **keys):
    """A rule that no lint has anything to say about; None takes a key away."""
    number = sum(name.encode())
    good = {
        "id": f"00000000-0000-0000-0000-{number:012x}",
        "name": name,
        "title": "A strong lie",
        "status": "test",
        "severity": "high",
        "signals": {
            "lie": signal(agg="count", over=4.0, window="32 tokens", gte=5),
            "play": signal("roleplay", agg="mean", window="64 tokens", gte=1.5),
        },
        "condition": "lie and not play",
        "message": "{signal.lie.value} tokens",
        "falsepositives": ["fiction"],
    }
    return {key: value for key, value in (good | keys).items() if value is not None}


def signal(feature="lying", **keys):
    return {"feature": feature, **keys}


def exception(**keys):
    return {"name": "red_team", "when": {"tenant": ["red"]}, "reason": "drill", **keys}


def one_signal(**keys):
    """The keys of a rule with one signal."""
    return {"signals": {"s": signal(**keys)}, "condition": "s", "message": "{signal.s.value}"}


def correlation(name="campaign", **keys):
    correlate = {"type": "event_count", "rules": ["strong_lie"], "timespan": "10m", "gte": 3}
    correlate = {key: value for key, value in (correlate | keys).items() if value is not None}
    return rule(name, signals=None, condition=None, correlate=correlate, message="{count}")


def sequence(*steps, within="100 tokens", window="8 tokens", **keys):
    """The keys of a rule whose steps are (signal, phase, ...)."""
    when = [{"when": name, "phase": phases} for name, *phases in steps]
    signals = {
        "lie": signal(agg="max", window=window, gte=4.0),
        "claim": signal("roleplay", agg="max", window=window, gte=3.0),
    }
    return {
        "signals": signals,
        "condition": None,
        "message": "{signal.lie.value}",
        "sequence": {"steps": when, "within": within} | keys,
    }


FEATURES = {
    "lying": {"sae": {"path": "sae"}, "index": 1, "max": 10.0},
    "roleplay": {"probe": {"path": "probes.safetensors"}},
}


def write(folder, *rules, features=FEATURES):
    """A file of rules, and one of features, which may go unused there."""
    head = {"version": 1, "ruleset": {"name": "set", "version": "1"}}
    paths = folder / "features.yaml", folder / "rules.yaml"
    for path, keys in zip(paths, ({"features": features}, {"rules": list(rules)}), strict=True):
        path.write_text(yaml.safe_dump(head | keys, sort_keys=False))
    return paths


def lint(*paths, today=TODAY):
    return lint_rules(load_rules(paths), paths, today)


def remarks(folder, *rules):
    """`lint: message` of everything that is said about a set."""
    return [f"{found.lint}: {found.message}" for found in lint(*write(folder, *rules))]
