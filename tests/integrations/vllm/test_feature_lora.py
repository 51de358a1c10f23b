"""Two adapters and the bare model in one batch: each row has the scores of its own."""

from __future__ import annotations

import numpy as np
import pytest
from live_engine import Ask
from tiny_models import Models
from watched_engine import WatchedEngine, relative_error

pytestmark = pytest.mark.server

PROMPT = np.random.default_rng(5).integers(4, 256, 30).tolist()


def test_each_adapter_of_a_batch_has_its_own_scores_and_its_name(
    watched: WatchedEngine, models: Models
):
    adapters = {
        name: (name, number, str(path))
        for number, (name, path) in enumerate(models.adapters.items(), 1)
    }
    asks = [
        Ask(f"lora-{name}-{i}", PROMPT, max_tokens=20, lora=adapters.get(name))
        for i, name in enumerate(["red", "bare", "blue", "red"])
    ]
    answers = watched.engine.drive(asks)
    prompts = {}
    for ask in asks:
        name = ask.lora[0] if ask.lora else None
        model = models.merged[name] if name else models.base
        record = watched.assert_exact(model, PROMPT, answers[ask.id])
        assert record.lora == name
        assert [alert.lora for alert in watched.alerts(record.req_id)] == [name] * len(
            watched.alerts(record.req_id)
        )
        prompts[name] = record.score_array()[1 : len(PROMPT)]
    for name in ("red", "blue"):  # or to mix them up would not show
        assert relative_error(prompts[name], prompts[None]) > 0.1
    assert relative_error(prompts["red"], prompts["blue"]) > 0.1
