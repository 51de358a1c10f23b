"""Find the features and thresholds of the shipped rules, on the training split alone.

A rule is one feature that fires with lies, and at most three that must not have fired before it:
`lie and not innocent`. Every signal is a maximum over the answer so far, so a rule has a verdict
on every row and alerts on the first row where it holds; a veto that comes later comes too late.
"""

from dataclasses import dataclass, replace

import numpy as np
from detectors import REPORTED_APART, Data, rank_features

MAX_FALSE_POSITIVES = 0.01
MAX_VETOES = 3
MIRROR_WEIGHT = 0.25


@dataclass(frozen=True, slots=True)
class Found:
    """A rule: thresholds are inclusive (gte); vetoes are features and their thresholds."""

    lie: int
    lie_gte: float
    vetoes: tuple[tuple[int, float], ...] = ()
    value: float = 0.0
    recall: float = 0.0
    worst_false_positives: float = 0.0


def running_maxima(data: Data) -> np.ndarray:
    """Return running maxima fp32 [cases, rows, d_sae], short answers repeated at the end."""
    longest = max(len(f) for f in data.features)
    out = np.empty((len(data.features), longest, data.pooled.shape[1]), np.float32)
    for i, features in enumerate(data.features):
        out[i, : len(features)] = np.maximum.accumulate(features, axis=0)
        out[i, len(features) :] = out[i, len(features) - 1]
    return out


class Search:
    """Values rules by recall and by false positives per kind.

    The mirror game states the liar's own values and counts for little: an alert on it is wrong,
    but no aim of the search.
    """

    def __init__(self, data: Data) -> None:
        self.data = data
        self.running = running_maxima(data)
        self.lies = data.y == 1
        kinds = sorted(set(data.kinds[~self.lies]) - set(REPORTED_APART))
        self.kinds = [~self.lies & (data.kinds == k) for k in kinds]
        self.mirror = ~self.lies & (data.kinds == "mirror")

    def judge(self, alerts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return value, recall and worst rate of false positives for alerts [cases, rules]."""
        recall = alerts[self.lies].mean(0)
        rates = np.stack([alerts[mask].mean(0) for mask in self.kinds])
        worst = rates.max(0)
        over = np.maximum(0, rates - MAX_FALSE_POSITIVES).sum(0)
        mirror = MIRROR_WEIGHT * alerts[self.mirror].mean(0)
        return recall - rates.mean(0) - worst / 2 - over - mirror, recall, worst

    def hits(self, rule: Found) -> np.ndarray:
        """Return whether the rule holds [cases, rows]."""
        hit = self.running[:, :, rule.lie] >= rule.lie_gte
        for feature, gte in rule.vetoes:
            hit = hit & (self.running[:, :, feature] < gte)
        return hit

    def judged(self, rule: Found) -> Found:
        """Return the rule with its value, recall and false positives filled in."""
        value, recall, worst = self.judge(self.hits(rule).any(1)[:, None])
        return replace(
            rule,
            value=float(value[0]),
            recall=float(recall[0]),
            worst_false_positives=float(worst[0]),
        )

    def with_veto(self, rule: Found) -> Found:
        """Return the rule with the veto that helps it most.

        Running maxima only grow, so a veto is weakest on the first row where the rule holds.
        """
        hit = self.hits(rule)
        fired, first = hit.any(1), hit.argmax(1)
        at_first = self.running[np.arange(len(fired)), first]
        best = rule
        for quantile in (0.98, 0.99, 0.995, 1.0):
            gte = np.quantile(at_first[self.lies & fired], quantile, axis=0) * 1.001 + 0.05
            value, _, _ = self.judge(fired[:, None] & (at_first < gte))
            value[[feature for feature, _ in rule.vetoes]] = -1.0
            i = int(value.argmax())
            if value[i] > best.value:
                veto = (i, float(gte[i]))
                best = self.judged(replace(rule, vetoes=(*rule.vetoes, veto)))
        return best

    def centred(self, rule: Found) -> Found:
        """Move each threshold within the range that is as good.

        Lies of other wordings fire more weakly, so a quarter of the way from the lenient end.
        """
        for place in range(-1, len(rule.vetoes)):
            feature = rule.lie if place < 0 else rule.vetoes[place][0]
            grid = np.linspace(0.02, float(self.data.pooled[:, feature].max()), 120)
            rules = [self.judged(_moved(rule, place, float(g))) for g in grid]
            values = np.array([r.value for r in rules])
            good = np.flatnonzero(values >= values.max() - 0.003)
            run = max(np.split(good, np.flatnonzero(np.diff(good) > 1) + 1), key=len)
            rule = rules[int(run[len(run) // 4 if place < 0 else len(run) * 3 // 4])]
        return rule


def _moved(rule: Found, place: int, gte: float) -> Found:
    if place < 0:
        return replace(rule, lie_gte=gte)
    vetoes = list(rule.vetoes)
    vetoes[place] = (vetoes[place][0], gte)
    return replace(rule, vetoes=tuple(vetoes))


def search(data: Data, num_candidates: int = 8) -> Found:
    """Return the best rule for the lies in `data`; each veto must earn its place."""
    judge = Search(data)
    starts = []
    for feature, _ in rank_features(data, num_candidates):
        low = np.quantile(data.pooled[judge.lies, feature], (0.002, 0.005, 0.01, 0.02, 0.04, 0.08))
        for gte in np.unique(np.maximum(low, 0.02)):
            starts.append(judge.judged(Found(feature, float(gte))))
    found = []
    for start in sorted(starts, key=lambda r: -r.value)[:12]:
        rule = start
        for _ in range(MAX_VETOES):
            better = judge.with_veto(rule)
            if better.value < rule.value + 0.01:
                break
            rule = better
        found.append(rule)
    return judge.centred(max(found, key=lambda r: r.value))
