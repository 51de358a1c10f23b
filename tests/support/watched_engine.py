"""An engine that is watched as in production, by a real monitor that it starts itself.

Its rules read random directions of the residual stream, so that every row of every request has
scores of its own: one that was put down to another request or position cannot be right by chance.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from live_engine import Answer, LiveEngine
from running_monitor import wait_for
from safetensors.numpy import save_file
from tiny_models import D_MODEL, hidden_states, inputs_at

from saeguard.integrations.otel import OtlpReceiver
from saeguard.monitor import watchlist as wl
from saeguard.monitor.alerts import Alert, RequestRecord
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.sites import HookPoint
from saeguard.monitor.store import get_request, list_alerts
from saeguard.rules import load_rules

LAYERS = (0, 2)
_PROBES = ("east", "north", "up")


def _rule(number: int, name: str, signal: dict[str, object], **more: object) -> dict[str, object]:
    return {
        "id": f"00000000-0000-4000-8000-{number:012}",
        "name": name,
        "title": name,
        "status": "test",
        "severity": "info",
        "signals": {"s": signal},
        "condition": "s",
        "message": "{rule.title}",
        "tags": ["site.test"],
        "falsepositives": [],
        **more,
    }


RULES = [
    # Of every request one alert: only what raises one is recorded.
    _rule(1, "any", {"feature": "east_0", "agg": "value", "gt": -1e6},
          limit={"per": "request", "max": 1}),
    _rule(2, "peak", {"feature": "north_2", "agg": "max", "window": "4 tokens", "gte": 3.0}),
    _rule(3, "level", {"feature": "up_0", "agg": "mean", "window": "6 tokens", "gte": 0.5}),
    _rule(5, "read", {"feature": "up_2", "agg": "mean", "window": "6 tokens", "gte": 0.5},
          scope={"phase": ["prompt"]}),
    _rule(4, "stop", {"feature": "east_2", "agg": "value", "gt": -1e6}, action="stop",
          scope={"tenant": ["stop me"], "phase": ["answer"]}),
]  # fmt: skip


@dataclass
class WatchedEngine:
    """The engine, and what its monitor has stored and sent."""

    engine: LiveEngine
    directory: Path
    watchlist: wl.Watchlist
    receiver: OtlpReceiver

    @property
    def store(self) -> Path:
        return self.directory / "alerts.sqlite"

    def record(self, req_id: str) -> RequestRecord:
        """Of a request that has ended, by vLLM's id."""
        wait_for(lambda: self.store.exists() and get_request(self.store, req_id) is not None, 20)
        record = get_request(self.store, req_id)
        assert record is not None
        return record

    def alerts(self, req_id: str) -> list[Alert]:
        """Of a request whose record is there, the oldest first."""
        alerts = list_alerts(self.store, limit=10_000)[::-1]
        return [alert for alert in alerts if alert.req_id == req_id]

    def num_live(self) -> float | None:
        """By the newest metrics."""
        values = [m.value for m in self.receiver.metrics if m.name == "saeguard.requests.live"]
        return values[-1] if values else None

    def decisions(self, req_id: str) -> list[tuple[str, int, float]]:
        """What the rules found: rule, position and the signal's value."""
        found = [(a.rule_name, a.position, a.signals[0].value) for a in self.alerts(req_id)]
        return [(rule, position, round(value, 3)) for rule, position, value in sorted(found)]

    def assert_exact(
        self, model: Path, prompt: list[int], answer: Answer, index: int = 0, req_id: str = ""
    ) -> RequestRecord:
        """Every row of a sequence was observed, and has Hugging Face's scores at its position.

        All but the last token's, unless the model had begun to read it before its end was known
        (async scheduling). The first position's scores are not recorded.
        """
        record = self.record(req_id or answer.req_id)
        token_ids = [*prompt, *answer.token_ids[index]]
        got = record.score_array()
        assert record.first_recorded == 0
        assert len(token_ids) - 1 <= len(got) <= len(token_ids)
        coverage = record.coverage
        assert coverage.observed == coverage.scheduled >= len(got), coverage
        assert relative_error(got[1:], self.expected(model, token_ids[: len(got)])[1:]) <= 1e-4
        return record

    def assert_known(self, model: Path, prompt: list[int], answer: Answer) -> RequestRecord:
        """Every row was observed or came from the prefix cache, with Hugging Face's scores."""
        record = self.record(answer.req_id)
        coverage = record.coverage
        assert coverage.unseen == {}
        assert coverage.scheduled == coverage.observed + coverage.cached
        token_ids = [*prompt, *answer.token_ids[0]][:-1]
        got = record.score_array()
        assert (record.first_recorded, len(got)) == (0, len(token_ids))
        assert relative_error(got[1:], self.expected(model, token_ids)[1:]) <= 1e-4
        return record

    def expected(self, model: Path, token_ids: list[int]) -> np.ndarray:
        """Scores by Hugging Face, [tokens, features]."""
        streams = hidden_states(model, token_ids)
        parts = []
        for site in self.watchlist.sites:
            is_stream = site.hook_point.kind == "resid_post"
            inputs = (
                streams[site.hook_point.layer]
                if is_stream
                else inputs_at(model, token_ids, site.hook_point)
            )
            parts.append(wl.encode(inputs, site))
        return np.concatenate(parts, axis=1)


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference over the largest score."""
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@contextmanager
def watched_engine(
    work: Path,
    model: Path,
    env: dict[str, str] | None = None,
    config: dict[str, Any] | None = None,
    layers: Sequence[int] = LAYERS,
    inner: Sequence[HookPoint] = (),
    directions: Mapping[str, np.ndarray] | None = None,
    **engine: Any,
) -> Iterator[WatchedEngine]:
    """Start it, with more of `saeguard.yaml` and of `LLM`'s arguments.

    Args:
        inner: other hook points to be watched.
        directions: feature -> what it reads instead of a random direction, without a bias.
    """
    work.mkdir(parents=True, exist_ok=True)
    with OtlpReceiver() as receiver:
        path = write_watched_config(work, receiver, layers, inner, directions, **(config or {}))
        watchlist = wl.load(work / "watch.safetensors")
        env = {"SAEGUARD_CONFIG": str(path), **(env or {})}
        with LiveEngine(work, env) as live:
            live.start(model=str(model), **engine)
            yield WatchedEngine(live, work, watchlist, receiver)


def write_watched_config(
    directory: Path,
    receiver: OtlpReceiver,
    layers: Sequence[int] = LAYERS,
    inner: Sequence[HookPoint] = (),
    directions: Mapping[str, np.ndarray] | None = None,
    **values: Any,
) -> Path:
    """Probes, rules, their watchlist and a configuration with all of that.

    Args:
        layers: to be watched, those of `RULES` and maybe others.
        inner: other hook points to be watched.
    """
    features = {}
    places = {str(layer): HookPoint(layer) for layer in layers}
    places |= {f"{point.kind}_{point.layer}": point for point in inner}
    for place, hook_point in places.items():
        path = directory / f"probes_{place}.safetensors"
        _write_probes(path, place, hook_point, directions or {})
        for name in _PROBES:
            features[f"{name}_{place}"] = {"probe": {"path": path.name}, "name": name}
    header = {"version": 1, "ruleset": {"name": "features", "version": "1.0.0"}}
    path = directory / "rules.yaml"
    more = [
        _rule(10 + i, f"at_{place}", {"feature": f"east_{place}", "agg": "value", "gt": 3.0})
        for i, place in enumerate(places)
        if place not in map(str, LAYERS)
    ]
    path.write_text(yaml.safe_dump({**header, "features": features, "rules": RULES + more}))
    wl.save(compile_watchlist(load_rules([path])), directory / "watch.safetensors")
    config = {
        "version": 1,
        "rules": ["rules.yaml"],
        "watchlist": "watch.safetensors",
        "store": "alerts.sqlite",
        "metrics": {"endpoint": receiver.endpoint, "interval_s": 0.2},
        **values,
    }
    path = directory / "saeguard.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _write_probes(
    path: Path, place: str, hook_point: HookPoint, directions: Mapping[str, np.ndarray]
) -> None:
    kind = b"" if hook_point.kind == "resid_post" else hook_point.kind.encode()
    rng = np.random.default_rng([100 + hook_point.layer, *kind])
    header = {"hook_name": str(hook_point), "names": _PROBES}
    tensors = {
        "weight": rng.standard_normal((len(_PROBES), D_MODEL)).astype(np.float32) / 4,
        "bias": rng.standard_normal(len(_PROBES)).astype(np.float32),
    }
    for i, probe in enumerate(_PROBES):
        if (direction := directions.get(f"{probe}_{place}")) is not None:
            tensors["weight"][i], tensors["bias"][i] = direction, 0.0
    save_file(tensors, path, metadata={"saeguard_probe": json.dumps(header)})
