"""Made-up activations in which it is known what each feature tells, and an SAE that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import save_file

from saeguard.integrations.discovery.activations import column_names
from saeguard.monitor.sites import HookPoint
from saeguard.rules import RequestContext
from saeguard.rules.calibration.labels import Label, write_labels
from saeguard.rules.recordings.offline import RecordedRequest
from saeguard.rules.recordings.recording import write_recordings

PLACE = HookPoint(3)
NUM_PROMPT = 4


@dataclass
class Planted:
    """Requests whose activations are noise, but for what is planted in them."""

    directory: Path
    d_model: int = 24
    seed: int = 0
    requests: list[RecordedRequest] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def add(
        self,
        label: bool,
        planted: dict[int, Sequence[float]] | None = None,
        num_tokens: int = 12,
        **about: str,
    ) -> None:
        """A request; of the planted features the scores of the first tokens of the answer."""
        name = f"r{len(self.requests)}"
        x = self.rng.normal(-1.0, 1.0, (NUM_PROMPT + num_tokens, self.d_model))
        for feature, scores in (planted or {}).items():
            x[NUM_PROMPT:, feature] = -1.0
            x[NUM_PROMPT : NUM_PROMPT + len(scores), feature] = scores
        x[0] = np.nan  # as the monitor has it of the first token
        phases = np.array([1] * NUM_PROMPT + [3] * num_tokens, np.uint8)
        self.requests.append(
            RecordedRequest(
                context=RequestContext(id=name, model="made up"),
                columns=column_names(PLACE, self.d_model),
                scores=x.astype(np.float32),
                positions=np.arange(len(x), dtype=np.int32),
                phases=phases,
                token_ids=np.arange(len(x), dtype=np.int32) % 7,
            )
        )
        self.labels.append(Label(id=name, label=label, **about))

    def write(self, shard: int = 64) -> tuple[list[Path], Path]:
        """Shards, and the file of labels."""
        paths = []
        for start in range(0, len(self.requests), shard):
            path = self.directory / f"recorded-{len(paths):05}.safetensors"
            write_recordings(path, self.requests[start : start + shard])
            paths.append(path)
        write_labels(self.directory / "labels.jsonl", self.labels)
        return paths, self.directory / "labels.jsonl"


def write_sae(directory: Path, weight: np.ndarray, **config: object) -> Path:
    """An SAE in sae-lens' layout whose feature i is relu(x @ weight[i]) and writes along it."""
    directory.mkdir(parents=True)
    num_features, d_model = weight.shape
    weight = weight.astype(np.float32)
    norms = np.linalg.norm(weight, axis=1, keepdims=True)
    save_file(
        {
            "W_enc": np.ascontiguousarray(weight.T),
            "b_enc": np.zeros(num_features, np.float32),
            "W_dec": weight / np.maximum(norms, 1e-9),
            "b_dec": np.zeros(d_model, np.float32),
        },
        directory / "sae_weights.safetensors",
    )
    values = {
        "d_in": d_model,
        "d_sae": num_features,
        "architecture": "standard",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "metadata": {"hook_name": str(PLACE)},
        **config,
    }
    (directory / "cfg.json").write_bytes(msgspec.json.encode(values))
    return directory
