"""Where the scores of a side come from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from saeguard.integrations.discovery.activations import activations_at, hook_points_of
from saeguard.monitor import store
from saeguard.monitor.alerting import is_drawn
from saeguard.monitor.cli.recordings import read_requests
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.live_heads import with_scores as with_heads
from saeguard.monitor.recordings import recorded_request
from saeguard.monitor.watchlist import Watchlist, encode
from saeguard.rules.calibration.labels import Label, LabelError, read_labels
from saeguard.rules.calibration.statistics import Statistics, from_json
from saeguard.rules.drift.samples import Sample
from saeguard.rules.recordings.offline import RecordedRequest
from saeguard.rules.recordings.recording import SUFFIXES

_STORES = (".sqlite", ".sqlite3", ".db")
_ALL = 1 << 62


def read_side(
    path: Path, record_share: float | None = None, since_ns: int = 0
) -> list[RecordedRequest] | Statistics:
    """The requests of a recording, of a directory of recordings or of an alert store; or the
    statistics that a calibration has left.

    Args:
        record_share: of the monitor that wrote the store. Only requests that it drew by chance are
            a fair sample; the others are there because they raised alerts.
        since_ns: requests that began earlier are left out.

    Raises:
        ConfigError: it cannot be read, or has nothing to compare.
    """
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise ConfigError(f"{path}: holds no recordings", "they are *.safetensors files")
        requests = read_requests(files)
    elif path.suffix in SUFFIXES:
        requests = read_requests([path])
    elif path.suffix in _STORES:
        requests = _of_store(path, record_share)
    elif path.suffix == ".json":
        return _of_calibration(path)
    else:
        raise ConfigError(
            f"{path}: scores are read from recordings (*{', *'.join(SUFFIXES)}, or a directory of "
            f"them), alert stores (*{_STORES[0]}) and calibration records (*.calibration.json)"
        )
    recent = [request for request in requests if request.time_ns >= since_ns]
    if not recent:
        raise ConfigError(f"{path}: none of its {len(requests)} requests is so recent", "--since")
    return recent


def _of_store(path: Path, record_share: float | None) -> list[RecordedRequest]:
    if not record_share:
        raise ConfigError(
            f"{path}: the requests in a store are first of all those that raised alerts",
            "say which share of all requests was drawn by chance: --record-share 0.01, as "
            "saeguard.yaml has it",
        )
    records = store.list_requests(path, limit=_ALL)
    drawn = [record for record in records if is_drawn(record.req_id, record_share)]
    if not drawn:
        raise ConfigError(
            f"{path}: none of its {len(records)} requests was drawn by chance",
            "set record_share in saeguard.yaml, and wait for traffic",
        )
    return [recorded_request(record) for record in drawn]


def _of_calibration(path: Path) -> Statistics:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        statistics = record["statistics"]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, LookupError) as error:
        raise ConfigError(
            f"{path}: has no statistics of scores", "saeguard calibrate --write leaves them there"
        ) from error
    try:
        return from_json(statistics)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def with_scores(requests: Sequence[RecordedRequest], watchlist: Watchlist) -> list[RecordedRequest]:
    """Requests of which activations were recorded at every hook point of the watchlist, with the
    scores that these give; others as they are.
    """
    places = {site.hook_point for site in watchlist.sites}
    return [
        _with_scores(request, watchlist) if places <= set(hook_points_of(request)) else request
        for request in requests
    ]


def _with_scores(request: RecordedRequest, watchlist: Watchlist) -> RecordedRequest:
    encoded = [encode(activations_at(request, s.hook_point), s) for s in watchlist.sites]
    scored = replace(
        request,
        columns=watchlist.columns,
        scores=np.concatenate(encoded, axis=1).astype(np.float32),
    )
    scored = with_heads(scored, watchlist.heads)
    kept = [i for i, name in enumerate(request.columns) if name not in scored.columns]
    return replace(
        scored,
        columns=(*(request.columns[i] for i in kept), *scored.columns),
        scores=np.concatenate([request.scores[:, kept], scored.scores], axis=1),
    )


def read_known(data: Path | None) -> dict[str, Label]:
    """What is known of requests, by their ids.

    Raises:
        ConfigError: the file of labels cannot be used.
    """
    try:
        return {} if data is None else {label.id: label for label in read_labels(data)}
    except LabelError as error:
        raise ConfigError(str(error)) from error


def sample(requests: Sequence[RecordedRequest], known: dict[str, Label]) -> Sample:
    """With groups and strata as the labels have them."""
    plain = Sample.plain(requests)
    labels = [known.get(request.context.id) for request in requests]
    groups = [
        name if label is None or label.group is None else f"group {label.group}"
        for name, label in zip(plain.groups, labels, strict=True)
    ]
    return Sample(requests, groups, [_stratum(label) for label in labels])


def _stratum(label: Label | None) -> str:
    if label is None:
        return "without a label"
    answer = label.label
    if isinstance(answer, dict):
        answer = ", ".join(f"{rule} {is_so}" for rule, is_so in sorted(answer.items()))
    return f"{label.source or '-'}: {answer}"
