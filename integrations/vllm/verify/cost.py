"""What watching costs: the same load on an engine that is watched and on one that is not."""

from __future__ import annotations

import statistics

import numpy as np

from saeguard.integrations.vllm.verify.check import Check
from saeguard.integrations.vllm.verify.engine import Engine
from saeguard.integrations.vllm.verify.protocol import Ask

_NUM_PROMPTS, _PROMPT_LENGTH = 32, 30
_TRIAL_TOKENS, _MAX_TOKENS = 8, 128
_ROUND_S = 4.0
_NUM_ROUNDS = 6


class Race:
    """Where the machine has room for two engines, they take turns, so that whatever else it does
    hits both. A GPU has not: there one engine runs after the other, and less can be said.
    """

    def __init__(self, plain: Engine) -> None:
        """
        Args:
            plain: the engine that is not watched; stopped if there is no room for two.
        """
        self._plain = plain
        self._load = _Load(plain)
        self._in_turns = all(worker.device == "cpu" for worker in plain.facts.workers)
        self._plain_s: list[float] = []
        if not self._in_turns:
            self._plain_s = [self._load.run(plain, i) for i in range(_NUM_ROUNDS)]
            plain.stop()

    def against(self, watched: Engine) -> Check:
        """The share of throughput that watching takes."""
        self._load.warm_up(watched)
        plain_s, watched_s = self._plain_s, []
        for i in range(_NUM_ROUNDS):
            if self._in_turns and i % 2:
                plain_s.append(self._load.run(self._plain, i))
            watched_s.append(self._load.run(watched, i))
            if self._in_turns and not i % 2:
                plain_s.append(self._load.run(self._plain, i))
        return _check(plain_s, watched_s, self._in_turns)


class _Load:
    """Rounds of requests, fitted to the speed of an engine; of one number always the same."""

    def __init__(self, engine: Engine) -> None:
        facts = engine.facts
        self._token_ids = np.array(facts.token_ids)
        self._num_tokens = _TRIAL_TOKENS
        self.warm_up(engine)
        wanted = int(_TRIAL_TOKENS * _ROUND_S / self.run(engine, -1))
        self._num_tokens = max(1, min(wanted, _MAX_TOKENS, facts.max_model_len - _PROMPT_LENGTH))

    def warm_up(self, engine: Engine) -> None:
        self.run(engine, -2)

    def run(self, engine: Engine, number: int) -> float:
        """Seconds for one round."""
        rng = np.random.default_rng(100 + number)  # nothing that the prefix cache has already
        asks = [
            Ask(
                id=f"cost_{number}.{i}",
                prompt=rng.choice(self._token_ids, _PROMPT_LENGTH).tolist(),
                max_tokens=self._num_tokens,
                is_recorded=False,
            )
            for i in range(_NUM_PROMPTS)
        ]
        return engine.serve(asks).took_s


def _check(plain_s: list[float], watched_s: list[float], in_turns: bool) -> Check:
    if in_turns:
        ratios = [plain / watched for plain, watched in zip(plain_s, watched_s, strict=True)]
        how = "two engines in turns"
    else:
        usual_s = statistics.median(plain_s)
        ratios = [usual_s / watched for watched in watched_s]
        how = "two engines one after the other"
    costs = sorted(100 * (1 - ratio) for ratio in ratios)
    percent = statistics.median(costs)
    return Check(
        "cost",
        "ok",
        f"{percent:.1f} % of throughput (median of {len(costs)} rounds, {costs[0]:.1f} to "
        f"{costs[-1]:.1f} %; {how})",
        {"percent": percent, "lowest_percent": costs[0], "highest_percent": costs[-1]},
    )
