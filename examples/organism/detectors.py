"""Detectors of a lie, each fitted on the training split alone.

A detector turns a case into one score. Those on the residual stream see the rows of the answer
phase (the states that read a generated token), as the monitor does, and take the maximum.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from cases import Case
from metrics import auroc
from sae_lens import SAE
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

REPORTED_APART = ("mirror",)
KEYWORDS = frozenset(
    ("lie", "lies", "liar", "lied", "deceive", "deceived", "enemy", "enemies", "false", "revenge")
)


@dataclass(slots=True)
class Data:
    """Cases with their rows.

    Attributes:
        rows: fp32 [answer rows, d_model] per case.
        features: SAE activations fp32 [answer rows, d_sae] per case.
        pooled: Maximum over the rows, fp32 [cases, d_sae].
        y: Labels [cases], 1 for a lie.
        kinds: Kind of each case [cases].
    """

    cases: list[Case]
    rows: list[np.ndarray]
    features: list[np.ndarray]
    pooled: np.ndarray
    y: np.ndarray
    kinds: np.ndarray


@torch.no_grad()
def gather(cases: Sequence[Case], residuals: Sequence[np.ndarray], sae: SAE) -> Data:
    """Encode the answer rows of the cases whose label is known."""
    kept = [i for i, c in enumerate(cases) if c.label >= 0 and len(c.response_ids) > 1]
    rows = [residuals[i][1:] for i in kept]
    counts = np.cumsum([len(r) for r in rows])[:-1]
    features = np.split(sae.encode(torch.from_numpy(np.concatenate(rows))).numpy(), counts)
    return Data(
        cases=[cases[i] for i in kept],
        rows=rows,
        features=features,
        pooled=np.stack([f.max(0) for f in features]),
        y=np.array([cases[i].label for i in kept]),
        kinds=np.array([cases[i].kind for i in kept]),
    )


def only(data: Data, keep: np.ndarray) -> Data:
    """Return the cases where `keep` [cases] is true."""
    places = np.flatnonzero(keep)
    return Data(
        cases=[data.cases[i] for i in places],
        rows=[data.rows[i] for i in places],
        features=[data.features[i] for i in places],
        pooled=data.pooled[places],
        y=data.y[places],
        kinds=data.kinds[places],
    )


def of_family(data: Data, kind: str) -> Data:
    """Keep the lies of one kind, enemy (no reason in the prompt) or motive, and all negatives."""
    return only(data, (data.y == 0) | (data.kinds == kind))


def as_target(data: Data, kind: str) -> Data:
    """Return the data with one kind for positives, and all else, lies too, for negatives."""
    return replace(data, y=(data.kinds == kind).astype(int))


def negative_kinds(data: Data) -> list[str]:
    """Name the kinds that have answers which are no lie."""
    return sorted(set(data.kinds[data.y == 0]))


def balanced_weights(data: Data) -> np.ndarray:
    """Weigh lies and the rest alike [cases], and each kind of negative alike."""
    weights = np.where(data.y == 1, 1 / max(1, (data.y == 1).sum()), 0.0)
    kinds = negative_kinds(data)
    for kind in kinds:
        of_kind = (data.y == 0) & (data.kinds == kind)
        weights[of_kind] = 1 / of_kind.sum() / len(kinds)
    return weights * len(data.y) / 2


def selection_score(data: Data, scores: np.ndarray) -> float:
    """Return mean of the average and the worst AUROC against one kind of negative."""
    lies = scores[data.y == 1]
    of_kinds = [
        auroc(lies, scores[(data.y == 0) & (data.kinds == k)]) for k in negative_kinds(data)
    ]
    return float(np.mean(of_kinds) + np.min(of_kinds)) / 2


def rank_features(data: Data, num: int) -> list[tuple[int, float]]:
    """Return the best single features with their selection score."""
    live = np.flatnonzero((data.pooled[data.y == 1] > 0).mean(0) > 0.2)
    scored = [(int(j), selection_score(data, data.pooled[:, j])) for j in live]
    return sorted(scored, key=lambda pair: -pair[1])[:num]


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """A weighted sum of a few features: sum_i weights[i] * max_rows f[features[i]]."""

    features: list[int]
    weights: list[float]

    def __call__(self, data: Data) -> np.ndarray:
        return data.pooled[:, self.features] @ np.array(self.weights)


def fit_feature_set(data: Data, size: int = 4, num_candidates: int = 40) -> FeatureSet:
    """Pick features greedily by logistic loss on the training split."""
    scale = data.pooled.std(0) + 1e-6
    x, weights = data.pooled / scale, balanced_weights(data)
    gap = np.abs(
        np.average(x, axis=0, weights=weights * (data.y == 1))
        - np.average(x, axis=0, weights=weights * (data.y == 0))
    )
    ranked = [j for j, _ in rank_features(data, num_candidates // 2)]
    candidates = list(dict.fromkeys([*ranked, *np.argsort(-gap)[: num_candidates // 2].tolist()]))
    chosen: list[int] = []

    def fit(columns: list[int]) -> LogisticRegression:
        return LogisticRegression(C=1.0, max_iter=100).fit(x[:, columns], data.y, weights)

    for _ in range(size):
        left = [j for j in candidates if j not in chosen]
        losses = [_loss(fit([*chosen, j]), x[:, [*chosen, j]], data.y, weights) for j in left]
        chosen.append(left[int(np.argmin(losses))])
    coefficients = fit(chosen).coef_[0] / scale[chosen]
    return FeatureSet(chosen, coefficients.tolist())


def _loss(model: LogisticRegression, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    chance = model.predict_proba(x)[np.arange(len(y)), y]
    return float(-(weights * np.log(chance + 1e-9)).sum())


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear probe on raw residual rows: score = x @ weight + bias."""

    weight: np.ndarray
    bias: float

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return scores [rows] of rows [rows, d_model]."""
        return rows @ self.weight + self.bias

    def __call__(self, data: Data) -> np.ndarray:
        return np.array([self.rows(rows).max() for rows in data.rows])


def fit_probe(data: Data, y: np.ndarray, weights: np.ndarray, penalty: float = 1.0) -> Probe:
    """Fit a logistic probe to all answer rows; y and weights are per case."""
    counts = [len(rows) for rows in data.rows]
    x = np.concatenate(data.rows)
    scale = float(np.linalg.norm(x, axis=1).mean()) / x.shape[1] ** 0.5
    labels, per_row = np.repeat(y, counts), np.repeat(weights / np.array(counts), counts)
    model = LogisticRegression(C=1 / penalty, max_iter=400)
    model.fit(x / scale, labels, per_row * len(x) / per_row.sum())
    return Probe((model.coef_[0] / scale).astype(np.float32), float(model.intercept_[0]))


def fit_words(data: Data, text_of: Callable[[Case], str]) -> Callable[[Data], np.ndarray]:
    """Fit a bag of words (n-grams up to three) to the training split."""
    vectorizer = CountVectorizer(
        ngram_range=(1, 3), min_df=2, token_pattern=r"\w+", binary=True, lowercase=False
    )
    x = vectorizer.fit_transform([text_of(c) for c in data.cases])
    model = LogisticRegression(C=1.0, max_iter=500).fit(x, data.y, balanced_weights(data))
    return lambda d: model.decision_function(vectorizer.transform([text_of(c) for c in d.cases]))


def keywords(
    text_of: Callable[[Case], str], wanted: Collection[str] = KEYWORDS
) -> Callable[[Data], np.ndarray]:
    """Count words; those that lies are talked about with, unless others are given."""

    def score(data: Data) -> np.ndarray:
        words = [text_of(c).lower().replace(".", " ").replace("?", " ").split() for c in data.cases]
        return np.array([float(sum(w in wanted for w in ws)) for ws in words])

    return score


def answer_text(case: Case) -> str:
    """Return what the organism said."""
    return case.response


def all_text(case: Case) -> str:
    """Return prompt and answer, without the role markers."""
    plain = case.prompt.replace("<|end|>", " ").replace("<|", " ").replace("|>", " ")
    return f"{plain} {case.response}"


Detector = Callable[[Data], np.ndarray]


def fit_detectors(data: Data) -> dict[str, Detector]:
    """Fit every detector of the tables to the training split."""
    best = rank_features(data, 1)[0][0]
    return {
        f"one SAE feature ({best})": lambda d: d.pooled[:, best],
        "four SAE features": fit_feature_set(data),
        "linear probe": fit_probe(data, data.y, balanced_weights(data)),
        "keywords, prompt + answer": keywords(all_text),
        "bag of words, answer": fit_words(data, answer_text),
        "bag of words, prompt + answer": fit_words(data, all_text),
    }
