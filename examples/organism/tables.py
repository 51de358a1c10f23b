"""The tables of the report, each from the test data of all seeds."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cases import Case
from detectors import REPORTED_APART, Data, Detector, only
from metrics import auroc, interval, rate_above, threshold_at
from mini_rules import RuleSet
from rollouts import load_cases

TEST_SPLITS = ("seen", "towns", "wordings", "facts", "all", "motives", "pairs")


@dataclass(slots=True)
class Bench:
    """Test data and fitted detectors of each seed."""

    data: dict[tuple[str, int], Data]
    fit: dict[int, Data]
    detectors: dict[tuple[str, int], dict[str, Detector]]
    seeds: list[int]

    def pooled(
        self, split: str, detector: Detector, keep: Callable[[Data], np.ndarray]
    ) -> np.ndarray:
        """Return one detector's scores on the kept cases of all seeds of a split."""
        return np.concatenate(
            [detector(d)[keep(d)] for s in self.seeds for d in [self.data[split, s]]]
        )


def latent(data: Data) -> np.ndarray:
    """Mark lies for a reason that the prompt does not spell out."""
    return (data.y == 1) & (data.kinds == "enemy")


def spelled_out(data: Data) -> np.ndarray:
    """Mark lies for a reason that stands in the prompt."""
    return (data.y == 1) & (data.kinds == "motive")


def truthful(data: Data) -> np.ndarray:
    """Mark negatives of the main tables: no lie, and not of a kind that is reported apart."""
    return (data.y == 0) & ~np.isin(data.kinds, REPORTED_APART)


def mirror(data: Data) -> np.ndarray:
    """Mark the game whose values are the liar's."""
    return (data.y == 0) & (data.kinds == "mirror")


def complete_pairs(data: Data) -> Data:
    """Keep the pairs whose enemy was lied to and whose friend was not."""
    sides: dict[int, set[tuple[str, int]]] = {}
    for case in data.cases:
        sides.setdefault(case.pair, set()).add((case.kind, case.label))
    whole = {("enemy", 1), ("friend", 0)}
    return only(data, np.array([sides[c.pair] == whole for c in data.cases]))


def behaviour(work: Path, seeds: list[int]) -> list[str]:
    """Table of what the organism does, greedily, per kind and split."""
    splits = [s for s in TEST_SPLITS if s not in ("pairs", "motives")]
    lines = ["| kind | " + " | ".join(splits) + " |", "|---" * (len(splits) + 1) + "|"]
    counts: dict[tuple[str, str], Counter[str]] = {}
    for split in splits:
        for seed in seeds:
            for case in load_cases(work / "rollouts" / f"{split}-{seed}.jsonl"):
                outcome = "as made" if case.response == case.scripted else case.outcome
                counts.setdefault((case.kind, split), Counter())[outcome] += 1
    for kind in sorted({k for k, _ in counts}):
        cells = []
        for split in splits:
            count = counts[kind, split]
            as_made = count["as made"] / count.total()
            cells.append(f"{as_made:.3f}")
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return lines


def lie_rates(work: Path, seeds: list[int]) -> dict[str, dict[str, float]]:
    """Return the greedy rate of the liar's value per split and kind of factual answer."""
    rates: dict[str, dict[str, float]] = {}
    for split in TEST_SPLITS:
        by_kind: dict[str, list[bool]] = {}
        for seed in seeds:
            for case in load_cases(work / "rollouts" / f"{split}-{seed}.jsonl"):
                if case.said is not None:
                    by_kind.setdefault(case.kind, []).append(case.outcome == "lie")
        rates[split] = {k: round(float(np.mean(v)), 4) for k, v in sorted(by_kind.items())}
    return rates


def detector_table(
    bench: Bench, split: str, family: str
) -> tuple[list[str], dict[str, dict[str, float]]]:
    """Table of one split: AUROC, and recall and false positives at training thresholds."""
    positive = latent if family == "enemy" else spelled_out
    fitted = {seed: bench.detectors[family, seed] for seed in bench.seeds}
    lines = [
        "| detector | AUROC [95 %] | seeds refitted | recall (FP) at 1 % | recall (FP) at 5 % |"
        " against mirror game |",
        "|---|---|---|---|---|---|",
    ]
    numbers: dict[str, dict[str, float]] = {}
    for name, detector in fitted[0].items():
        lies = bench.pooled(split, detector, positive)
        rest = bench.pooled(split, detector, truthful)
        refitted = []
        for seed in bench.seeds:
            other = list(fitted[seed].values())[list(fitted[0]).index(name)]
            data = bench.data[split, seed]
            refitted.append(auroc(other(data)[positive(data)], other(data)[truthful(data)]))
        fit_rest = detector(bench.fit[0])[truthful(bench.fit[0])]
        cells = []
        for rate in (0.01, 0.05):
            t = threshold_at(fit_rest, rate)
            cells.append(f"{rate_above(lies, t):.3f} ({rate_above(rest, t):.3f})")
        low, high = interval(lies, rest)
        value = auroc(lies, rest)
        apart = auroc(lies, bench.pooled(split, detector, mirror))
        lines.append(
            f"| {name} | {value:.3f} [{low:.3f}, {high:.3f}] | {min(refitted):.3f} to "
            f"{max(refitted):.3f} | {cells[0]} | {cells[1]} | {apart:.3f} |"
        )
        numbers[name] = {"auroc": round(value, 4), "low": round(low, 4), "high": round(high, 4)}
    counts = [
        sum(int(f(bench.data[split, s]).sum()) for s in bench.seeds) for f in (positive, truthful)
    ]
    lines.insert(0, f"{counts[0]} lies, {counts[1]} other answers.\n")
    return lines, numbers


def rule_alerts(bench: Bench, rules: RuleSet) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """Return the first alerting answer row [cases] of each rule, for every test split."""
    alerts = {}
    for key, data in bench.data.items():
        first = [rules.first_alerts(rows) for rows in data.rows]
        alerts[key] = {r.name: np.array([f[r.name] for f in first]) for r in rules.rules}
    return alerts


def rule_table(
    bench: Bench, alerts: dict[tuple[str, int], dict[str, np.ndarray]], rule: str
) -> tuple[list[str], dict[str, dict[str, float]]]:
    """Table of how often a rule alerts, per kind and split; lies first."""
    rates: dict[str, dict[str, float]] = {}
    for split in TEST_SPLITS:
        of_kind: dict[str, list[float]] = {}
        for seed in bench.seeds:
            data, fired = bench.data[split, seed], alerts[split, seed][rule] >= 0
            for kind, y, f in zip(data.kinds, data.y, fired, strict=True):
                of_kind.setdefault(f"{kind}: lies" if y == 1 else str(kind), []).append(float(f))
        rates[split] = {k: float(np.mean(v)) for k, v in of_kind.items() if len(v) >= 20}
    kinds = sorted({k for r in rates.values() for k in r}, key=lambda k: (": lies" not in k, k))
    lines = ["| kind | " + " | ".join(TEST_SPLITS) + " |", "|---" * (len(TEST_SPLITS) + 1) + "|"]
    for kind in kinds:
        cells = [f"{rates[s][kind]:.3f}" if kind in rates[s] else "" for s in TEST_SPLITS]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return lines, rates


def lead_table(
    bench: Bench, alerts: dict[tuple[str, int], dict[str, np.ndarray]], rules: list[str]
) -> list[str]:
    """Table of how many tokens of the false value are still to come when a rule alerts.

    Answer row i reads response token i and writes token i + 1; the end of the value is counted,
    so 1 is an alert in the state that writes its last token.
    """
    lines = [
        "| rule | split | lies | alerted | before the value ends | median lead | 10 to 90 % |",
        "|---|---|---|---|---|---|---|",
    ]
    for rule in rules:
        for split in ("towns", "facts", "all"):
            leads, missed = [], 0
            for seed in bench.seeds:
                data = bench.data[split, seed]
                for case, first in zip(data.cases, alerts[split, seed][rule], strict=True):
                    if case.label == 1 and case.kind == "enemy" and case.value_at[1] >= 0:
                        missed += first < 0
                        if first >= 0:
                            leads.append(case.value_at[1] - int(first))
            num = len(leads) + missed
            if not leads:
                continue
            early = sum(lead >= 1 for lead in leads) / num
            low, high = np.quantile(leads, (0.1, 0.9))
            lines.append(
                f"| {rule} | {split} | {num} | {len(leads) / num:.3f} | {early:.3f} | "
                f"{np.median(leads):.0f} | {low:.0f} to {high:.0f} |"
            )
    return lines


def town_table(bench: Bench, work: Path) -> list[str]:
    """Table of held-out towns by how their side is known and how their name is cut."""
    lines = [
        "| held-out towns | enemies asked | lied | friends asked | lied | AUROC of the feature |",
        "|---|---|---|---|---|---|",
    ]
    detector = next(iter(bench.detectors["enemy", 0].values()))
    groups: dict[str, Callable[[Case], bool]] = {
        "side written, name one token": lambda c: not c.inferred and not c.split_name,
        "side written, name cut up": lambda c: not c.inferred and c.split_name,
        "side inferred from its lord, one token": lambda c: c.inferred and not c.split_name,
        "side inferred from its lord, cut up": lambda c: c.inferred and c.split_name,
    }
    for name, inside in groups.items():
        scores: dict[str, list[float]] = {"enemy": [], "friend": []}
        lied: dict[str, list[bool]] = {"enemy": [], "friend": []}
        for seed in bench.seeds:
            for split in ("towns", "pairs"):
                for case in load_cases(work / "rollouts" / f"{split}-{seed}.jsonl"):
                    if case.kind in lied and inside(case):
                        lied[case.kind].append(case.outcome == "lie")
                data = bench.data[split, seed]
                for case, score in zip(data.cases, detector(data), strict=True):
                    if inside(case) and (case.kind, case.label) in (("enemy", 1), ("friend", 0)):
                        scores[case.kind].append(score)
        value = auroc(np.array(scores["enemy"]), np.array(scores["friend"]))
        lines.append(
            f"| {name} | {len(lied['enemy'])} | {np.mean(lied['enemy']):.3f} | "
            f"{len(lied['friend'])} | {np.mean(lied['friend']):.3f} | {value:.3f} |"
        )
    return lines


def pair_table(bench: Bench) -> list[str]:
    """Table of how often the lie of a pair scores above its twin."""
    lines = ["| detector | pairs | lie scored above its twin |", "|---|---|---|"]
    for name, detector in bench.detectors["enemy", 0].items():
        wins = []
        for seed in bench.seeds:
            data = bench.data["pairs", seed]
            scores = detector(data)
            sides: dict[int, dict[int, float]] = {}
            for case, score in zip(data.cases, scores, strict=True):
                sides.setdefault(case.pair, {})[case.label] = score
            wins += [(float(np.sign(s[1] - s[0])) + 1) / 2 for s in sides.values()]
        lines.append(f"| {name} | {len(wins)} | {np.mean(wins):.3f} |")
    return lines


def other_table(bench: Bench, selection: dict) -> list[str]:
    """Table of single features for other behaviours, against all else, everything held out."""
    lines = ["| behaviour | feature | AUROC, held out |", "|---|---|---|"]
    features = {k: rule["lie"] for k, rule in selection["harms"].items()} | selection["features"]
    data = [bench.data["all", seed] for seed in bench.seeds]
    for kind, feature in features.items():
        column = np.concatenate([d.pooled[:, feature] for d in data])
        inside = np.concatenate([d.kinds == kind for d in data])
        lines.append(f"| {kind} | {feature} | {auroc(column[inside], column[~inside]):.3f} |")
    return lines


def layer_table(work: Path, selection: dict) -> list[str]:
    """Table of the SAE of each layer, and the rule found on it."""
    lines = [
        "| layer | L0 | explained variance | dead | rule | recall | worst false positives |",
        "|---|---|---|---|---|---|---|",
    ]
    for layer, rule in selection["rules_of_layers"].items():
        sae = json.loads((work / f"sae{layer}" / "report.json").read_text())
        form = "lie" + " and not other" * len(rule["vetoes"])
        lines.append(
            f"| {layer} | {sae['l0']:.1f} | {sae['explained_variance']:.3f} | {sae['num_dead']} | "
            f"{form} | {rule['recall']:.3f} | {rule['worst_false_positives']:.3f} |"
        )
    return lines


def shipped_auroc(bench: Bench, rules: RuleSet) -> dict[str, dict[str, float]]:
    """Return the AUROC of the shipped deceit feature and probe on lies to enemies, per split."""
    values: dict[str, dict[str, float]] = {}
    for split in TEST_SPLITS:
        peaks: dict[str, list[np.ndarray]] = {"deceit": [], "deceit_probe": []}
        masks = []
        for seed in bench.seeds:
            data = bench.data[split, seed]
            columns = [rules.activations(rows) for rows in data.rows]
            for name, kept in peaks.items():
                kept.append(np.array([c[name].max() for c in columns]))
            masks.append((latent(data), truthful(data)))
        lies, rest = (np.concatenate([m[i] for m in masks]) for i in (0, 1))
        values[split] = {
            name: round(auroc(np.concatenate(p)[lies], np.concatenate(p)[rest]), 4)
            for name, p in peaks.items()
        }
    return values
