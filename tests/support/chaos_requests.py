"""Requests of every kind in a random mix, for `numbered_models`; each has its number in its id."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from live_engine import Answer, Ask
from numbered_models import END_OF_TEXT, FIRST_OWN, own_tokens
from tiny_models import Models

KINDS = {
    "plain": 22,
    "several": 3,
    "stopped by a rule": 3,
    "stop token": 3,
    "stop string": 3,
    "logprobs": 2,
    "prompt logprobs": 1,
    "structured": 3,
}
"""How many of each there are in 40."""
SEED = 11


def make_asks(
    num_requests: int, models: Models, loras: bool, without: Collection[str]
) -> list[Ask]:
    """
    Args:
        loras: some are for an adapter, and answers are random instead of greedy.
        without: kinds that this engine cannot serve; plain ones come for them.
    """
    rng = np.random.default_rng(SEED)
    kinds = rng.permutation([kind for kind, count in KINDS.items() for _ in range(count)])
    shared = [rng.integers(4, FIRST_OWN, rng.integers(20, 100)).tolist() for _ in range(5)]
    asks, step = [], 0
    for number in range(num_requests):
        step += int(rng.choice([0, 0, 1, 4, 9]))
        own = own_tokens(number)
        prompt = rng.choice(own, int(rng.integers(1, 60))).tolist()
        if rng.random() < 0.5:
            prompt = [*shared[rng.integers(5)], *prompt]
        kind = str(kinds[number % len(kinds)])
        kind = "plain" if kind in without else kind
        lora = str(rng.choice(["", "", "red", "blue"])) if loras else ""
        asks.append(
            Ask(
                f"r{number}",
                prompt,
                max_tokens=90 if kind == "stopped by a rule" else int(rng.integers(1, 40)),
                params={**_params(own, is_greedy=not loras), **_PARAMS[kind](own, rng)},
                lora=_adapter(models, lora) if lora else None,
                salt=rng.choice([None, None, "salt"]),
                at_step=step,
                abort_at_step=step + int(rng.integers(1, 30)) if rng.random() < 0.1 else None,
            )
        )
    return asks


def next_turn(ask: Ask, answer: Answer, step: int) -> Ask:
    """Of the same chat."""
    history = [*ask.prompt, *answer.token_ids[0]]
    more = ask.params["allowed_token_ids"]
    return Ask(
        f"{ask.id}-again", [*history, *more], 10, ask.params, ask.lora, ask.salt, at_step=step
    )


def _adapter(models: Models, name: str) -> tuple[str, int, str]:
    return name, list(models.adapters).index(name) + 1, str(models.adapters[name])


def _params(own: list[int], is_greedy: bool) -> dict[str, Any]:
    return {
        "temperature": 0.0 if is_greedy else 1.0,
        "allowed_token_ids": own,
        "detokenize": False,
    }


def _structured(own: list[int], rng: np.random.Generator) -> dict[str, Any]:
    words = "|".join(f"w{token}" for token in own)
    # Without that list the grammar would let parts of those words begin them, and end nowhere.
    return {
        "structured_outputs": {"regex": f"({words}){{2,12}}"},
        "allowed_token_ids": [*own, END_OF_TEXT],
        "ignore_eos": False,
    }


_PARAMS = {
    "plain": lambda own, rng: {},
    "several": lambda own, rng: {"n": int(rng.integers(2, 4)), "temperature": 1.0},
    "stopped by a rule": lambda own, rng: {"extra_args": {"tenant": "stop me"}},
    "stop token": lambda own, rng: {"stop_token_ids": [own[0]]},
    "stop string": lambda own, rng: {"stop": [f"w{own[0]}"], "detokenize": True},
    "logprobs": lambda own, rng: {"logprobs": 1},
    "prompt logprobs": lambda own, rng: {"prompt_logprobs": 1},
    "structured": _structured,
}
