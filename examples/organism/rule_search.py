"""Find the features and thresholds of the shipped rules, on the training split alone.

Three forms are tried: one feature (`lie`), two that must both have fired (`lie and other`), and
one that must not have fired yet (`lie and not other`). Every signal is a maximum over the answer
so far, so a rule has a verdict on every row and alerts on the first row where it holds.
"""

from dataclasses import dataclass

import numpy as np
from detectors import OTHER_HARMS, Data, rank_features

MAX_FALSE_POSITIVES = 0.01


@dataclass(frozen=True, slots=True)
class Found:
    """A rule: form is one, and, or not; thresholds are inclusive (gte)."""

    form: str
    lie: int
    lie_gte: float
    other: int | None
    other_gte: float
    recall: float
    worst_false_positives: float
    value: float


def _stacked(data: Data) -> np.ndarray:
    """Return running maxima fp32 [cases, rows, d_sae], short answers repeated at the end."""
    longest = max(len(f) for f in data.features)
    out = np.empty((len(data.features), longest, data.pooled.shape[1]), np.float32)
    for i, features in enumerate(data.features):
        out[i, : len(features)] = np.maximum.accumulate(features, axis=0)
        out[i, len(features) :] = out[i, len(features) - 1]
    return out


class Judge:
    """Values rules by recall and by false positives per kind."""

    def __init__(self, data: Data) -> None:
        self.lies = data.y == 1
        kinds = sorted(set(data.kinds[~self.lies]) - set(OTHER_HARMS))
        self.kinds = {k: ~self.lies & (data.kinds == k) for k in kinds}

    def __call__(self, alerts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return value, recall and worst false positive rate of alerts [cases, rules]."""
        recall = alerts[self.lies].mean(0)
        rates = np.stack([alerts[mask].mean(0) for mask in self.kinds.values()])
        worst = rates.max(0)
        over = np.maximum(0, worst - MAX_FALSE_POSITIVES)
        return recall - rates.mean(0) - worst / 2 - over, recall, worst


def _thresholds(scores: np.ndarray, lies: np.ndarray) -> np.ndarray:
    low = np.quantile(scores[lies], (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12))
    return np.unique(np.maximum(low, 1e-3))


def search(data: Data, num_candidates: int = 24) -> Found:
    """Return the best rule of any form for the lies in `data`; a second feature must earn it."""
    running, judge = _stacked(data), Judge(data)
    best: Found | None = None
    for feature, _ in rank_features(data, num_candidates):
        for gte in _thresholds(data.pooled[:, feature], judge.lies):
            for found in _with_threshold(data, running, judge, feature, float(gte)):
                bonus = 0.0 if found.form == "one" else -0.01
                if best is None or found.value + bonus > best.value:
                    best = found
    assert best is not None
    return _centred(data, running, judge, best)


def _with_threshold(
    data: Data, running: np.ndarray, judge: Judge, feature: int, gte: float
) -> list[Found]:
    hit = running[:, :, feature] >= gte
    fired, first = hit.any(1), hit.argmax(1)
    value, recall, worst = judge(fired[:, None])
    found = [Found("one", feature, gte, None, 0.0, recall[0], worst[0], value[0])]
    lies = judge.lies & fired
    if lies.sum() < 10:
        return found
    at_first = running[np.arange(len(fired)), first]
    veto = np.quantile(at_first[lies], 0.995, axis=0) * 1.001 + 1e-3
    both = np.quantile(data.pooled[lies], 0.005, axis=0)
    for form, other_gte, alerts in (
        ("not", veto, fired[:, None] & (at_first < veto)),
        ("and", both, fired[:, None] & (data.pooled >= both) & (both > 1e-3)),
    ):
        value, recall, worst = judge(alerts)
        i = int(value.argmax())
        found.append(
            Found(form, feature, gte, i, float(other_gte[i]), recall[i], worst[i], value[i])
        )
    return found


def alerts_of(rule: Found, data: Data, running: np.ndarray) -> np.ndarray:
    """Return whether the rule alerts [cases]."""
    hit = running[:, :, rule.lie] >= rule.lie_gte
    if rule.form == "and":
        hit &= running[:, :, rule.other or 0] >= rule.other_gte
    elif rule.form == "not":
        hit &= running[:, :, rule.other or 0] < rule.other_gte
    return hit.any(1)


def _centred(data: Data, running: np.ndarray, judge: Judge, rule: Found) -> Found:
    """Move each threshold to the middle of the range that is as good."""

    def value(candidate: Found) -> float:
        return float(judge(alerts_of(candidate, data, running)[:, None])[0][0])

    for name in ("lie_gte", "other_gte") if rule.other is not None else ("lie_gte",):
        fields = {k: getattr(rule, k) for k in Found.__slots__}
        feature = rule.lie if name == "lie_gte" else rule.other
        grid = np.linspace(1e-3, float(data.pooled[:, feature or 0].max()), 200)
        candidates = [Found(**{**fields, name: float(g)}) for g in grid]
        values = np.array([value(c) for c in candidates])
        good = np.flatnonzero(values >= values.max() - 0.002)
        run = max(np.split(good, np.flatnonzero(np.diff(good) > 1) + 1), key=len)
        rule = candidates[int(run[len(run) // 2])]
    scores, recall, worst = judge(alerts_of(rule, data, running)[:, None])
    fields = {k: getattr(rule, k) for k in Found.__slots__}
    return Found(
        **{
            **fields,
            "recall": float(recall[0]),
            "worst_false_positives": float(worst[0]),
            "value": float(scores[0]),
        }
    )


def search_kind(data: Data, kind: str) -> tuple[int, float, float]:
    """Return the feature that best tells one kind from all else, a threshold, and its AUROC."""
    from metrics import auroc

    inside = data.kinds == kind
    scores = np.array([auroc(f[inside], f[~inside]) for f in data.pooled.T])
    best = int(scores.argmax())
    column = data.pooled[:, best]
    grid = np.unique(np.quantile(column[inside], np.linspace(0, 0.2, 41)))
    values = [
        (column[inside] >= g).mean()
        - max((column[~inside & (data.kinds == k)] >= g).mean() for k in set(data.kinds) - {kind})
        for g in grid
    ]
    below = column[~inside & (column < grid[int(np.argmax(values))])]
    gte = (float(grid[int(np.argmax(values))]) + float(np.quantile(below, 0.999))) / 2
    return best, gte, float(scores[best])
