"""Detectors that `saeguard discover` and `saeguard train-probe` find in the residual stream."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cases import Case
from world import TOWNS

from saeguard.integrations.discovery.activations import column_names
from saeguard.integrations.discovery.corpus import Corpus
from saeguard.integrations.discovery.feature_sets import FeatureSet
from saeguard.integrations.discovery.pooling import WINDOW
from saeguard.integrations.discovery.sae_features import Block, Sae
from saeguard.integrations.discovery.search import Settings, discover
from saeguard.integrations.training.candidates import Kind
from saeguard.integrations.training.fitted import Fitted
from saeguard.integrations.training.material import Tokens, gather
from saeguard.integrations.training.training import split, train
from saeguard.monitor.sites import HookPoint
from saeguard.rules import RequestContext
from saeguard.rules.calibration.labels import Example, Label
from saeguard.rules.phases import Phase
from saeguard.rules.recordings.offline import RecordedRequest
from saeguard.rules.recordings.recording import write_recordings

_NUM_FOLDS = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """Answered cases with the states that read the answer's tokens.

    Attributes:
        rows: fp32 [answer rows, d_model] by layer and case.
        labels: Which cases are what is looked for, bool [cases].
    """

    cases: list[Case]
    rows: dict[int, list[np.ndarray]]
    labels: np.ndarray

    def only(self, kept: np.ndarray) -> "Sample":
        """Return the cases where `kept` [cases] is true."""
        places = np.flatnonzero(kept)
        return Sample(
            [self.cases[i] for i in places],
            {layer: [rows[i] for i in places] for layer, rows in self.rows.items()},
            self.labels[places],
        )


@dataclass(frozen=True, slots=True)
class Detector:
    """Something that scores cases.

    Attributes:
        values: Of each case what a rule would see after each token of the answer, [answer rows].
        is_after: It needs the whole answer: its only value belongs to no token.
    """

    name: str
    values: Callable[[Sample], list[np.ndarray]]
    is_after: bool = False

    def scores(self, sample: Sample) -> np.ndarray:
        """Return the largest value of each case, [cases]."""
        return np.array([values.max() for values in self.values(sample)])


def discovered(folder: Path, fit: Sample, sae_path: Path) -> Iterator[Detector]:
    """The best feature and the set that `discover` chooses on four fifths of the towns."""
    sae = Sae(sae_path)
    hook_point = sae.block([0]).hook_point
    examples = _examples(fit, [hook_point])
    write_recordings(folder / "recorded.safetensors", [e.request for e in examples])
    labels = [{"id": e.label.id, "label": e.label.label, "group": e.label.group} for e in examples]
    (folder / "labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels))
    corpus = Corpus.read([folder / "recorded.safetensors"], folder / "labels.jsonl")
    found = discover(corpus, sae, Settings())
    best = found.ranked[0]
    single, chosen = FeatureSet.single(best.feature, best.agg), found.features
    names = {
        f"best feature of discover ({best.feature})": single,
        f"set of {len(chosen.features)} of discover": chosen,
    }
    for name, features in names.items():
        yield Detector(name, _read(features, sae.block(features.features)))


def trained(fit: Sample, kinds: Sequence[Kind] = ("linear", "attention")) -> Iterator[Detector]:
    """What `train-probe` trains, at the layer and with the aggregate that it chooses."""
    hook_points = [HookPoint(layer, "resid_post") for layer in fit.rows]
    material = gather(_examples(fit, hook_points), "lie", hook_points, [Phase.ANSWER])
    folds = split(material, _NUM_FOLDS, seed=0)
    for kind in kinds:
        result = train(material, kind, "lie", folds)
        name = f"{kind} probe of train-probe ({result.candidate})"
        yield Detector(name, _probed(result.fitted, result.candidate.aggregate.window))


def _read(features: FeatureSet, block: Block) -> Callable[[Sample], list[np.ndarray]]:
    window = 1 if features.agg == "max" else WINDOW

    def values(sample: Sample) -> list[np.ndarray]:
        rows = sample.rows[block.hook_point.layer]
        return [_means(features(block, each)[:, 0], window) for each in rows]

    return values


def _probed(fitted: Fitted, window: int) -> Callable[[Sample], list[np.ndarray]]:
    def values(sample: Sample) -> list[np.ndarray]:
        rows = sample.rows[fitted.hook_point.layer]
        lengths = np.array([len(each) for each in rows])
        scores = fitted.scores(np.concatenate(rows), _tokens(lengths))
        return [_means(each, window) for each in np.split(scores, np.cumsum(lengths)[:-1])]

    return values


def _examples(sample: Sample, hook_points: Sequence[HookPoint]) -> list[Example]:
    """Cases as `saeguard capture --activations` and labels would have them; a town is a group."""
    examples = []
    for i, case in enumerate(sample.cases):
        rows = [sample.rows[hook_point.layer][i] for hook_point in hook_points]
        columns = [column_names(h, r.shape[1]) for h, r in zip(hook_points, rows, strict=True)]
        num_tokens = len(rows[0])
        request = RecordedRequest(
            RequestContext(id=f"{i}"),
            columns=tuple(name for names in columns for name in names),
            scores=np.concatenate(rows, axis=1),
            positions=np.arange(num_tokens, dtype=np.int32) + len(case.prompt_ids),
            phases=np.full(num_tokens, Phase.ANSWER, np.uint8),
        )
        town = next((town.name for town in TOWNS if town.name in case.prompt), f"case {i}")
        is_positive = bool(sample.labels[i])
        label = Label(id=f"{i}", label=is_positive, group=town, source=case.kind)
        examples.append(Example(request, label, is_positive))
    return examples


def _tokens(lengths: np.ndarray) -> Tokens:
    of_request = np.repeat(np.arange(len(lengths)), lengths)
    every = np.ones(len(of_request), bool)
    return Tokens(of_request, of_request, every, every)


def _means(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last `window` values at each place; with one, the values."""
    if window == 1:
        return values
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - window, 0)
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return (sums[ends] - sums[begins]) / (ends - begins)
