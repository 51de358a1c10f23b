"""What becomes of requests that an engine does not answer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from transformers import PreTrainedTokenizerFast

from saeguard.integrations.vllm.capture.data import Item
from saeguard.integrations.vllm.capture.parts import Part
from saeguard.integrations.vllm.capture.session import Session
from saeguard.integrations.vllm.capture.watched import watched

MODEL = str(Path(__file__).resolve().parents[3] / "examples" / "organism" / "artifacts" / "model")


class FailingEngine:
    """Ends every request with an error, as EngineCore does with `fail: closed` while blind."""

    def __init__(self) -> None:
        self.vllm_config = SimpleNamespace(model_config=SimpleNamespace(tokenizer=MODEL))
        self._waiting: list[str] = []
        self.num_tried = 0

    def get_tokenizer(self) -> PreTrainedTokenizerFast:
        return PreTrainedTokenizerFast.from_pretrained(MODEL)

    def add_request(self, name: str, prompt: object, sampling: object) -> str:
        self._waiting.append(name)
        self.num_tried += 1
        return name

    def has_unfinished_requests(self) -> bool:
        return bool(self._waiting)

    def reset_prefix_cache(self) -> bool:
        return True

    def step(self) -> list[SimpleNamespace]:
        ended = SimpleNamespace(finish_reason="error", token_ids=[], text="")
        name = self._waiting.pop()
        return [SimpleNamespace(request_id=name, finished=True, outputs=[ended])]


def test_a_request_that_vllm_ends_with_an_error_is_tried_again_then_named(tmp_path: Path):
    engine = FailingEngine()
    watch = watched([], ["blocks.1.hook_resid_post"], MODEL)
    session = Session(engine, tmp_path / "none", watch, max_tokens=4)
    captured = session.run(Part((Item("r1", prompt="the lamp"), Item("r2", prompt="the"))))
    assert (captured.requests, captured.failed) == ([], ["r1", "r2"])
    assert engine.num_tried == 6
