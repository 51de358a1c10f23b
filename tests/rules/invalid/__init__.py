"""Files that are wrong in one way each: `complete.yaml`, edited."""

from tests.rules.invalid.detections import CONDITIONS, CORRELATIONS, SEQUENCES
from tests.rules.invalid.features import FEATURES
from tests.rules.invalid.overlays import OVERLAYS
from tests.rules.invalid.rules import EXCEPTIONS, RULES
from tests.rules.invalid.signals import SIGNALS
from tests.rules.invalid.wrong import COMPLETE, Wrong

__all__ = ["COMPLETE", "INVALID", "Wrong"]

INVALID = {
    f"{part}: {name}": wrong
    for part, table in {
        "feature": FEATURES,
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
