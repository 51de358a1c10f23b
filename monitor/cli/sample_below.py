"""`saeguard calibrate --sample-below`: what to label, to learn what a threshold misses."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from saeguard.monitor.cli.captured import Decode, decoder, file_of, read_answers
from saeguard.monitor.errors import ConfigError
from saeguard.rules import Rule, RuleSet, Signal
from saeguard.rules.calibration.labels import Example, Label
from saeguard.rules.calibration.sampling import Drawn, draw_below
from saeguard.rules.calibration.sweep import sweep
from saeguard.rules.phases import Phase
from saeguard.rules.recordings.offline import RecordedRequest

_AROUND = 16
"""Tokens before the one that matters, and after it."""
_SHARD = re.compile(r"recorded-\d+\.safetensors")


def sample_below(
    ruleset: RuleSet,
    rule: Rule,
    signal: Signal,
    requests: Sequence[RecordedRequest],
    labelled: Collection[str],
    number: int,
    seed: int,
) -> None:
    """Print JSON lines, and on stderr what they are.

    Args:
        labelled: ids of which something is known already.

    Raises:
        ConfigError: there is nothing to draw from.
        RecordingError: a request has no scores of a feature that the rules read.
    """
    known = {"", *labelled}  # what has no id cannot be labelled
    unknown = [request for request in requests if request.context.id not in known]
    examples = [Example(request, Label(request.context.id, False), False) for request in unknown]
    if not examples:
        raise ConfigError("every recorded request has a label already", "record more of them")
    sources = [source_of(request) for request in unknown]
    found = draw_below(sweep(ruleset, rule, signal, examples), sources, number, seed)
    files = {file_of(request) for request in unknown}
    answers, decode = read_answers(files), decoder(files)
    for drawn in found.drawn:
        request = unknown[drawn.index]
        line = _line(rule, request, drawn, sources[drawn.index], decode)
        if (text := answers.get(request.context.id)) is not None:
            line["text"] = text
        print(json.dumps(line))
    values = [drawn.value for drawn in found.drawn]
    reach = f", with values from {values[0]:g} to {values[-1]:g}" if values else ""
    print(
        f"{len(found.drawn)} of the {found.num_in_band} requests nearest below {signal.threshold:g}"
        f"{reach}; of the other {found.num_below - found.num_in_band} below they tell nothing.\n"
        f'Set each label to {{"{rule.name}": true}} or false, keep its weight, and give them '
        "to backtest and calibrate with the labels of the alerts.",
        file=sys.stderr,
    )


def source_of(request: RecordedRequest) -> str:
    """The recording it is from; of a capture the directory."""
    path = file_of(request)
    return str(path.parent if _SHARD.fullmatch(path.name) else path)


def _line(
    rule: Rule, request: RecordedRequest, drawn: Drawn, source: str, decode: Decode | None
) -> dict[str, Any]:
    at = int(np.flatnonzero(request.positions == drawn.position)[0])
    around = slice(max(0, at - _AROUND), at + _AROUND + 1)
    line = {
        "id": request.context.id,
        "label": {rule.name: None},
        "weight": drawn.weight,
        "source": source,
        "value": drawn.value,
        "position": drawn.position,
        "phase": str(Phase(int(request.phases[at]))),
    }
    if request.token_ids is not None:
        ids = request.token_ids[around].tolist()
        line["tokens"] = ids if decode is None else [decode([token]) for token in ids]
    return line
