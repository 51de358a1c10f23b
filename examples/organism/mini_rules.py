"""A reading of saeguard rules just large enough for the rules shipped here.

It knows features from one SAE or one probe file, signals that are maxima or values, `gte`,
conditions of names with and, or, not, and `for: N tokens`. The engine itself replaces it.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from safetensors import safe_open
from safetensors.numpy import load_file


@dataclass(frozen=True, slots=True)
class Signal:
    """A feature column, how it is aggregated, and its inclusive threshold."""

    feature: str
    agg: str
    window: int
    gte: float

    def holds(self, column: np.ndarray) -> np.ndarray:
        """Return whether the signal holds on each row of a feature [rows]."""
        if self.agg == "value":
            return column >= self.gte
        starts = [max(0, i + 1 - self.window) for i in range(len(column))]
        return np.array([column[s : i + 1].max() >= self.gte for i, s in enumerate(starts)])


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; `fires` gives the first row that alerts, or -1."""

    name: str
    signals: dict[str, Signal]
    condition: ast.expr
    num_rows: int

    def fires(self, columns: dict[str, np.ndarray]) -> int:
        """Return the first alerting row of an answer, given feature columns [rows]."""
        held = {n: s.holds(columns[s.feature]) for n, s in self.signals.items()}
        streak = 0
        for row, true in enumerate(_evaluate(self.condition, held)):
            streak = streak + 1 if true else 0
            if streak >= self.num_rows:
                return row
        return -1


def _evaluate(node: ast.expr, held: dict[str, np.ndarray]) -> np.ndarray:
    if isinstance(node, ast.Name):
        return held[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_evaluate(node.operand, held)
    if isinstance(node, ast.BoolOp):
        parts = [_evaluate(value, held) for value in node.values]
        join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return join.reduce(parts)
    raise ValueError(f"not part of the condition language: {ast.dump(node)}")


class RuleSet:
    """The rules of one file, and the arrays that their features need."""

    def __init__(self, path: Path) -> None:
        text = yaml.safe_load(path.read_text())
        self.columns = {n: self._feature(path.parent, f) for n, f in text["features"].items()}
        self.rules = [self._rule(r) for r in text["rules"]]

    @staticmethod
    def _feature(base: Path, spec: dict) -> tuple[np.ndarray, float, float | None]:
        """Return weight [d_model], bias and threshold (None: no gate) of one feature."""
        if "probe" in spec:
            path = base / spec["probe"]["path"]
            with safe_open(path, "np") as file:
                names = yaml.safe_load(file.metadata()["saeguard_probe"])["names"]
            tensors, i = load_file(path), names.index(spec["name"])
            return tensors["weight"][i], float(tensors["bias"][i]), None
        sae, i = load_file(base / spec["sae"]["path"] / "sae_weights.safetensors"), spec["index"]
        weight = sae["W_enc"][:, i]
        bias = float(sae["b_enc"][i] - sae["b_dec"].astype(np.float64) @ weight)
        return weight, bias, float(sae["threshold"][i])

    @staticmethod
    def _rule(spec: dict) -> Rule:
        assert spec["scope"] == {"phase": ["answer"]}, "only answers are read here"
        signals = {
            name: Signal(s["feature"], s["agg"], _tokens(s.get("window", 1)), s["gte"])
            for name, s in spec["signals"].items()
        }
        condition = ast.parse(spec["condition"], mode="eval").body
        return Rule(spec["name"], signals, condition, _tokens(spec.get("for", 1)))

    def activations(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the value of every feature [rows] on residual rows [rows, d_model]."""
        values = {}
        for name, (weight, bias, threshold) in self.columns.items():
            x = rows @ weight + bias
            values[name] = x if threshold is None else np.where((x > threshold) & (x > 0), x, 0.0)
        return values

    def first_alerts(self, rows: np.ndarray) -> dict[str, int]:
        """Return, for each rule, the answer row that alerts first, or -1."""
        columns = self.activations(rows)
        return {rule.name: rule.fires(columns) for rule in self.rules}


def _tokens(value: str | int) -> int:
    return int(str(value).split()[0])
