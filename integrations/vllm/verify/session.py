"""The requests of the proof, and what came of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from saeguard.integrations.vllm.verify.engine import Engine
from saeguard.integrations.vllm.verify.protocol import Answer, Ask, EngineFacts
from saeguard.integrations.vllm.verify.setting import LONGEST, RULE, Setting
from saeguard.monitor.alerts import Alert, RequestRecord
from saeguard.monitor.errors import UnsupportedError
from saeguard.monitor.store import list_alerts, list_requests
from saeguard.monitor.store_file import StoreError

_LENGTHS = (3, 9, 24, 24, 41, 57, 80, 120)
"""Of the prompts that are served together. Two are as long as each other: what mixes those up
changes no count."""
_NUM_GENERATED = 16
_SHORTEST_MODEL = 64
_PATIENCE_S = 20.0
"""How long the monitor may take to store what has ended; it waits itself for rows for 5 s."""
_POLL_S = 0.01


@dataclass(frozen=True)
class Seen:
    """One request: what was asked, what the engine answered, what the monitor stored."""

    ask: Ask
    answer: Answer
    record: RequestRecord | None
    num_columns: int

    @property
    def token_ids(self) -> list[int]:
        return [*self.ask.prompt, *self.answer.token_ids]

    @property
    def num_rows(self) -> int:
        """Tokens that the model has certainly read: all but the last."""
        return len(self.token_ids) - 1

    def scores(self) -> npt.NDArray[np.float32]:
        """[rows, columns] from the second position on, whose scores are kept; NaN where the monitor
        has none.
        """
        scores = np.full((self.num_rows, self.num_columns), np.nan, np.float32)
        if self.record is not None:
            first = self.record.first_recorded
            stored = self.record.score_array()[: max(0, self.num_rows - first)]
            scores[first : first + len(stored)] = stored
        return scores[1:]


@dataclass(frozen=True)
class Evidence:
    """All that the checks judge."""

    setting: Setting
    before: EngineFacts
    after: EngineFacts
    together: list[Seen]
    """Different prompts at once, each with an answer."""
    alone: list[Seen]
    """What each of those had read in the end, as the prompt of a request that ran by itself."""
    repeated: list[Seen]
    """The same prompt twice, one after the other; empty where none is long enough to be cached."""
    single: Seen
    """For which the alert was waited."""
    alert: Alert | None
    """Of `single`."""
    alert_after_s: float
    """How long after the forward pass of its row the alert was in the store."""

    @property
    def all_seen(self) -> list[Seen]:
        return [*self.together, *self.alone, *self.repeated, self.single]


def run_session(engine: Engine, setting: Setting, patience_s: float = _PATIENCE_S) -> Evidence:
    """Send everything, and wait until the monitor has stored it.

    Raises:
        EngineError: the engine has ended.
        UnsupportedError: the model takes too few tokens for any proof.
    """
    before = engine.look()
    prompts = _Prompts(before)
    together = [prompts.ask(n, _NUM_GENERATED) for n in _lengths(before)]
    answers = engine.serve(together).answers
    alone = []
    for ask in together:
        again = prompts.ask_for([*ask.prompt, *answers[ask.id].token_ids][:-1])
        answers |= engine.serve([again]).answers
        alone.append(again)
    repeated = _repeated(before, prompts)
    for ask in repeated:
        answers |= engine.serve([ask]).answers
    single = prompts.ask(min(16, _longest(before)), 4)
    engine.begin([single])
    alert, stored_ns = _await_alert(setting, single.id, patience_s)
    answers |= engine.answers().answers
    after = engine.look()
    records = _await_records(setting, answers.keys(), patience_s)
    num_columns = len(setting.watchlist.columns)

    def seen(asks: Sequence[Ask]) -> list[Seen]:
        return [Seen(a, answers[a.id], records.get(a.id), num_columns) for a in asks]

    took_s = (stored_ns - alert.forward_time_ns) / 1e9 if alert else float("nan")
    return Evidence(
        setting, before, after, seen(together), seen(alone), seen(repeated), seen([single])[0],
        alert, took_s,
    )  # fmt: skip


class _Prompts:
    """Makes requests of random ordinary tokens, under ids of their own."""

    def __init__(self, facts: EngineFacts) -> None:
        self._token_ids = np.array(facts.token_ids)
        self._rng = np.random.default_rng(0)
        self._name = f"verify_{uuid4().hex[:8]}"
        self._count = 0

    def ask(self, length: int, max_tokens: int) -> Ask:
        return self.ask_for(self.tokens(length), max_tokens)

    def ask_for(self, prompt: list[int], max_tokens: int = 1, is_shared: bool = False) -> Ask:
        """
        Args:
            is_shared: it may find in the prefix cache what others of the kind have computed.
        """
        self._count += 1
        name = f"{self._name}.{self._count}"
        return Ask(name, prompt, max_tokens, salt=self._name if is_shared else name)

    def tokens(self, length: int) -> list[int]:
        tokens: list[int] = self._rng.choice(self._token_ids, length).tolist()
        return tokens


def _longest(facts: EngineFacts) -> int:
    """Of a prompt, so that there is room for its answer."""
    if facts.max_model_len < _SHORTEST_MODEL:
        raise UnsupportedError(
            f"the model takes {facts.max_model_len} tokens, too few for a proof",
            f"give at least {_SHORTEST_MODEL}: -- --max-model-len",
        )
    return min(facts.max_model_len, LONGEST) - _NUM_GENERATED


def _lengths(facts: EngineFacts) -> list[int]:
    """Of the prompts served together; the last is longer than a step where that can be."""
    longest = _longest(facts)
    in_chunks = facts.max_step_tokens + 29
    return [min(n, longest) for n in _LENGTHS] + [in_chunks] * (in_chunks <= longest)


def _repeated(facts: EngineFacts, prompts: _Prompts) -> list[Ask]:
    length = min(2 * facts.block_size + 5, _longest(facts))
    if not facts.prefix_caching or length <= facts.block_size:
        return []
    prompt = prompts.tokens(length)
    return [prompts.ask_for(prompt, is_shared=True) for _ in range(2)]


def _await_alert(setting: Setting, request_id: str, patience_s: float) -> tuple[Alert | None, int]:
    """The alert of a request, and when it was found in the store."""
    for _ in _tries(patience_s):
        with contextlib.suppress(StoreError):  # it is not there yet
            for alert in list_alerts(setting.store, rule=RULE, limit=5):
                if alert.request_id == request_id:
                    return alert, time.time_ns()
    return None, time.time_ns()


def _await_records(
    setting: Setting, ids: Collection[str], patience_s: float
) -> dict[str, RequestRecord]:
    """Those that the monitor has stored, by the requests' ids."""
    records: dict[str, RequestRecord] = {}
    for _ in _tries(patience_s, 0.2):
        with contextlib.suppress(StoreError):
            found = list_requests(setting.store, limit=2 * len(ids))
            records = {record.request_id: record for record in found if record.request_id in ids}
        if len(records) == len(ids):
            break
    return records


def _tries(patience_s: float, every_s: float = _POLL_S) -> Iterator[None]:
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s:
        yield
        time.sleep(every_s)
