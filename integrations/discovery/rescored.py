"""Recordings of what rules read, made from captured activations: so a draft can be backtested and
calibrated without running the model once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from saeguard.integrations.discovery.activations import activations_at
from saeguard.integrations.discovery.feature_sets import FeatureSet
from saeguard.integrations.discovery.sae_features import Block
from saeguard.integrations.discovery.splits import Split
from saeguard.monitor.errors import ConfigError
from saeguard.rules.calibration.labels import LabelError, read_labels, write_labels
from saeguard.rules.recordings.offline import RecordingError
from saeguard.rules.recordings.recording import read_recordings, write_recordings


def rescore(
    shards: Sequence[Path], block: Block, features: FeatureSet, name: str, directory: Path
) -> None:
    """Write a recording for each shard, with one column: what a rule reads of a set.

    Args:
        block: of the set's features.

    Raises:
        ConfigError: a recording cannot be read, or the directory not be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for old in directory.glob("recorded-*.safetensors"):
            old.unlink()
        for number, shard in enumerate(shards):
            scored = [
                replace(
                    request,
                    columns=(name,),
                    scores=features(block, activations_at(request, block.hook_point)),
                    watchlist="",
                )
                for request in read_recordings(shard)
            ]
            write_recordings(directory / f"recorded-{number:05}.safetensors", scored)
    except RecordingError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be written: {error}") from error


def relabel(data: Path, ids: Sequence[str], split: Split, path: Path) -> None:
    """Write the labels again, with the side of the split as each one's split, `fit` or `test`. What
    is on neither side has none.

    Raises:
        ConfigError: the labels cannot be read or written.
    """
    side = {name: "fit" for name, is_train in zip(ids, split.train, strict=True) if is_train}
    side |= {name: "test" for name, is_test in zip(ids, split.test, strict=True) if is_test}
    try:
        labels = read_labels(data)
        known = [msgspec.structs.replace(e, split=side[e.id]) for e in labels if e.id in side]
        write_labels(path, known)
    except LabelError as error:
        raise ConfigError(str(error)) from error
