"""Rules tried on recordings whose answers are known, file by file, wherever that is done.

No process has more than one file in memory, so there may be any number of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from saeguard.monitor.cli.recordings import read_requests
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.shards import Runner
from saeguard.rules import RuleSet
from saeguard.rules.calibration.backtest import Trial, try_rules
from saeguard.rules.calibration.labels import Known, LabelError, Matched
from saeguard.rules.recordings.offline import RecordingError


@dataclass(frozen=True, slots=True)
class _Tried:
    """One file."""

    trials: list[Trial]
    num_requests: int
    num_in_other_splits: int


def try_files(
    runner: Runner, ruleset: RuleSet, files: Sequence[Path], known: Known
) -> Matched[Trial]:
    """What comes of every recorded request of which something is known.

    Raises:
        ConfigError: a file cannot be read, a recording lacks a feature, one request was recorded
            twice, or nothing belongs together.
    """
    with closing(runner(partial(_trying, ruleset, known), files)) as parts:
        tried = list(parts)
    trials = tuple(trial for part in tried for trial in part.trials)
    try:
        known.check((trial.label.id, trial.read_from) for trial in trials)
    except LabelError as error:
        raise ConfigError(str(error)) from error
    num_requests = sum(part.num_requests for part in tried)
    num_in_other_splits = sum(part.num_in_other_splits for part in tried)
    return Matched.of(trials, known, num_requests, num_in_other_splits)


@contextmanager
def _trying(ruleset: RuleSet, known: Known) -> Iterator[Callable[[Path], _Tried]]:
    yield partial(_try_file, ruleset, known)


def _try_file(ruleset: RuleSet, known: Known, file: Path) -> _Tried:
    requests = read_requests([file])
    examples = [example for request in requests if (example := known.example(request))]
    try:
        trials = try_rules(ruleset, examples)
    except RecordingError as error:
        raise ConfigError(str(error), "record it with a watchlist of these rules") from error
    return _Tried(trials, len(requests), known.count_in_other_splits(requests))
