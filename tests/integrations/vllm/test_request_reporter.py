"""What a scheduler does with its requests reaches the monitor."""

from __future__ import annotations

import time
from types import SimpleNamespace

import msgspec
import pytest

pytest.importorskip("vllm")

from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus, StreamingUpdate

from saeguard.integrations.vllm import request_reporter
from saeguard.integrations.vllm.outbox import Build
from saeguard.integrations.vllm.request_reporter import RequestReporter
from saeguard.monitor.messages import (
    Message,
    MoreInput,
    NewBlocks,
    PrefixUpdate,
    RequestEnd,
    RequestStart,
    Running,
)

BLOCK_SIZE = 4


class Line:
    """To a monitor that can be taken away and come back."""

    def __init__(self) -> None:
        self.is_up = True
        self._was_up = True

    def is_new(self) -> bool:
        was_up, self._was_up = self._was_up, self.is_up
        return self.is_up and not was_up


class Scheduled:
    """A scheduler's requests and decisions, without the scheduler, and what was said of them."""

    def __init__(self, block_size: int = BLOCK_SIZE, prefix: str = "") -> None:
        self.messages: list[Message] = []
        self.requests: dict[str, Request] = {}
        self.is_full = False
        self.outbox = SimpleNamespace(post=self._post, num_dropped=0)
        self.connection = Line()
        self._reporter = RequestReporter(
            self.requests, "m", None, block_size, self.outbox, self.connection, prefix
        )
        init_none_hash(sha256)

    def add(self, req_id: str, prompt: list[int], **params: object) -> Request:
        request = Request(
            request_id=req_id,
            prompt_token_ids=prompt,
            sampling_params=SamplingParams(**params),
            pooling_params=None,
            arrival_time=time.time(),
            block_hasher=get_request_block_hasher(BLOCK_SIZE, sha256),
        )
        self.requests[req_id] = request
        return request

    def step(self, v1_resumed: tuple[str, int] | None = None, **rows: tuple[int, int]) -> None:
        """Request -> the position that it begins or goes on at, or -1, and how many rows."""
        begun = {req_id: first for req_id, (first, _) in rows.items() if first >= 0}
        cached = SimpleNamespace(req_ids=[], resumed_req_ids=set(), num_computed_tokens=[])
        if v1_resumed is not None:
            running = [req_id for req_id in rows if req_id not in begun]
            cached.req_ids = running
            cached.resumed_req_ids = {v1_resumed[0]}
            cached.num_computed_tokens = [v1_resumed[1] for _ in running]
        self._reporter.scheduled(
            SimpleNamespace(
                scheduled_new_reqs=[
                    SimpleNamespace(req_id=req_id, num_computed_tokens=first)
                    for req_id, first in begun.items()
                ],
                scheduled_cached_reqs=cached,
                num_scheduled_tokens={req_id: count for req_id, (_, count) in rows.items()},
            )
        )

    def end(self, req_id: str) -> None:
        self.requests[req_id].status = RequestStatus.FINISHED_STOPPED
        self._reporter.ended(self.requests.pop(req_id))

    def _post(self, build: Build) -> None:
        if self.is_full:
            self.outbox.num_dropped += 1
        else:
            self.messages.append(build()[0])

    def of(self, kind: type) -> list[Message]:
        return [message for message in self.messages if isinstance(message, kind)]


@pytest.fixture
def scheduled() -> Scheduled:
    return Scheduled()


@pytest.mark.parametrize(
    ("xargs", "tenant", "client"),
    [
        ({"tenant": "acme", "client": "app-7"}, "acme", "app-7"),
        ({"tenant": 7}, "7", None),
        ({}, None, None),
        (None, None, None),
    ],
)
def test_tenant_and_client_come_from_the_request_s_vllm_xargs(
    scheduled: Scheduled, xargs, tenant, client
):
    scheduled.add("chatcmpl-1-abcdefgh", [1, 2], extra_args=xargs)
    scheduled.step(**{"chatcmpl-1-abcdefgh": (0, 2)})
    (message,) = scheduled.messages
    assert (message.tenant, message.client) == (tenant, client)
    assert message.external_id == "chatcmpl-1"


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    ("wish", "read"),
    [
        ("lying", "lying"),
        (["lying", "hiding"], "lying,hiding"),
        (["lying", 3, 0.5], "lying,3,0.5"),
        (True, "True"),
        ({"lying": 1}, "{'lying': 1}"),
        (None, ""),
        ([Unprintable(), "\ud800"], "?,?"),
    ],
)
def test_what_a_client_opts_out_of_is_read_whatever_it_may_be(scheduled: Scheduled, wish, read):
    scheduled.add("a", [1, 2], extra_args={"saeguard_opt_out": wish, "policy": "gold"})
    scheduled.step(a=(0, 2))
    (message,) = scheduled.messages
    assert (message.opt_out, message.policy) == (read, "gold")


def test_what_a_client_says_at_length_is_kept_short(scheduled: Scheduled):
    names = ("tenant", "client", "policy", "saeguard_opt_out")
    req_id = "chatcmpl-" + "x" * 10_000 + "-abcdefgh"
    scheduled.add(req_id, [1, 2], extra_args=dict.fromkeys(names, "lying" * 10_000))
    scheduled.step(**{req_id: (0, 2)})
    (message,) = scheduled.messages
    assert {len(message.tenant), len(message.client), len(message.policy)} == {200}
    assert (len(message.opt_out), len(message.external_id)) == (2000, 200)
    assert message.req_id == req_id, "the engine's own is what a stop needs"


@pytest.mark.parametrize("req_id", ["chatcmpl-1-abcdefgh", "0_chatcmpl-1-abcdefgh", "chatcmpl-1"])
def test_each_of_n_samples_has_the_client_s_id(scheduled: Scheduled, req_id: str):
    scheduled.add(req_id, [1, 2])
    scheduled.step(**{req_id: (0, 2)})
    (message,) = scheduled.messages
    assert (message.req_id, message.external_id) == (req_id, "chatcmpl-1")


def test_every_message_of_an_engine_begins_its_ids_alike():
    scheduled = Scheduled(prefix="dp1/")
    request = scheduled.add("a", list(range(6)))
    scheduled.step(a=(0, 6))
    request.append_output_token_ids([20, 21])
    scheduled.step(v1_resumed=None, a=(7, 1))  # it skips one
    scheduled.end("a")
    start, update, end = scheduled.messages
    assert (start.req_id, start.external_id, end.req_id) == ("dp1/a", "a", "dp1/a")
    assert list(update.made) == list(update.skipped) == ["dp1/a"]
    assert end.num_scheduled == 7


def test_a_request_is_announced_with_what_it_has_from_the_cache(scheduled: Scheduled):
    request = scheduled.add("a", list(range(10)))
    scheduled.step(a=(8, 2))
    (start,) = scheduled.messages
    assert (start.num_cached, start.block_size) == (8, BLOCK_SIZE)
    assert start.block_hashes == request.block_hashes
    assert len(start.block_hashes) == 2


def test_a_request_that_ends_in_the_queue_is_announced_and_ended(scheduled: Scheduled):
    scheduled.add("a", [1, 2])
    scheduled.end("a")
    start, end = scheduled.messages
    assert (start.req_id, end.req_id) == ("a", "a")
    assert (end.num_scheduled, end.num_cached) == (0, 0)


def test_blocks_made_by_generated_tokens_are_told_before_who_may_find_them(scheduled: Scheduled):
    request = scheduled.add("a", list(range(6)))
    scheduled.step(a=(0, 6))
    request.append_output_token_ids(20)
    scheduled.step(a=(-1, 1))
    request.append_output_token_ids(21)
    scheduled.add("b", list(range(6)))
    scheduled.step(a=(-1, 1), b=(4, 2))  # completes the block of which b has the first half
    _, update, start = scheduled.messages
    assert update == PrefixUpdate(made={"a": NewBlocks(1, request.block_hashes[1:])})
    assert start.req_id == "b"
    request.append_output_token_ids(22)
    scheduled.step(a=(-1, 1), b=(-1, 1))
    assert len(scheduled.messages) == 3, "nothing new"


def test_the_last_blocks_are_told_with_the_end(scheduled: Scheduled):
    request = scheduled.add("a", list(range(6)))
    scheduled.step(a=(0, 6))
    request.append_output_token_ids([20, 21])
    scheduled.end("a")
    _, update, end = scheduled.messages
    assert update.made["a"] == NewBlocks(1, request.block_hashes[1:])
    assert isinstance(end, RequestEnd)


@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_what_a_resumed_request_skips_counts_as_cached(scheduled: Scheduled, runner: str):
    """It was preempted within its prompt, and another request has computed more of it since."""
    scheduled.add("a", list(range(40)))
    scheduled.step(a=(4, 8))
    if runner == "v1":
        scheduled.step(v1_resumed=("a", 32), a=(-1, 8))
    else:
        scheduled.step(a=(32, 8))
    (update,) = scheduled.of(PrefixUpdate)
    assert update.skipped == {"a": (12, 32)}
    scheduled.end("a")
    (end,) = scheduled.of(RequestEnd)
    assert (end.num_cached, end.num_scheduled) == (4 + 20, 16)


def test_blocks_after_a_resumption_are_told_in_time(scheduled: Scheduled):
    request = scheduled.add("a", list(range(10)))
    scheduled.step(a=(0, 6))
    scheduled.step(a=(4, 6))
    request.append_output_token_ids([20, 21])
    scheduled.step(a=(-1, 2))
    (update,) = scheduled.of(PrefixUpdate)
    assert update.made == {"a": NewBlocks(2, request.block_hashes[2:])}


def test_what_a_resumed_request_has_computed_itself_is_not_cached(scheduled: Scheduled):
    scheduled.add("a", list(range(12)))
    scheduled.step(a=(0, 12))
    scheduled.step(a=(8, 4))
    scheduled.step(a=(0, 8))
    scheduled.step(a=(-1, 4))
    scheduled.end("a")
    assert not scheduled.of(PrefixUpdate)
    (end,) = scheduled.of(RequestEnd)
    assert (end.num_cached, end.num_scheduled) == (0, 28)


def go_on(request: Request, num_computed: int, more: list[int]) -> None:
    """As vLLM does when input comes after an answer."""
    request.num_computed_tokens = num_computed
    update = StreamingUpdate(None, more, 16, time.time(), request.sampling_params)
    scheduler = SimpleNamespace(hash_block_size=BLOCK_SIZE, log_stats=False)
    Scheduler._update_request_as_session(scheduler, request, update)


def test_a_prompt_that_has_become_longer_is_told_with_the_hash_of_its_new_block(
    scheduled: Scheduled,
):
    request = scheduled.add("a", [1, 2])
    scheduled.step(a=(0, 2))
    request.append_output_token_ids([20, 21])
    scheduled.step(a=(-1, 2))  # a block with the last token, which is then rejected
    go_on(request, 3, [30, 31, 32, 33, 34])
    scheduled.step(a=(3, 5))
    start, _, more, update = scheduled.messages
    assert start.prompt_token_ids == [1, 2]
    assert more == MoreInput("a", 3, [1, 2, 20, 30, 31, 32, 33, 34])
    assert update.made["a"] == NewBlocks(0, request.block_hashes)


def test_a_prompt_that_stays_as_it_is_is_not_told_again(scheduled: Scheduled):
    scheduled.add("a", list(range(10)))
    scheduled.step(a=(0, 10))
    scheduled.step(a=(8, 2))  # after a preemption
    assert scheduled.of(MoreInput) == []


def test_without_a_prefix_cache_no_hashes_are_sent():
    scheduled = Scheduled(block_size=0)
    scheduled.add("a", list(range(12)))
    scheduled.step(a=(0, 12))
    scheduled.end("a")
    (start,) = scheduled.of(RequestStart)
    assert (start.block_size, start.block_hashes) == (0, [])
    assert not scheduled.of(PrefixUpdate)


def test_a_request_s_start_and_end_say_how_many_messages_could_not_be_sent(scheduled: Scheduled):
    scheduled.add("a", list(range(4)))
    scheduled.step(a=(0, 4))
    scheduled.outbox.num_dropped = 2
    scheduled.end("a")
    (start,), (end,) = scheduled.of(RequestStart), scheduled.of(RequestEnd)
    assert (start.num_dropped, end.num_dropped) == (0, 2)


def test_a_monitor_that_has_come_back_is_told_again_of_what_runs(scheduled: Scheduled):
    for req_id in "ab":
        scheduled.add(req_id, list(range(6)))
    scheduled.step(a=(4, 2), b=(0, 6))
    scheduled.connection.is_up = False
    scheduled.step(a=(-1, 1))
    scheduled.end("b")
    scheduled.connection.is_up = True
    first = scheduled.of(RequestStart)[0]
    del scheduled.messages[:]
    scheduled.add("c", [1, 2])
    scheduled.step(a=(-1, 1), c=(0, 2))
    end, ended, running, new = scheduled.messages
    assert (end.req_id, isinstance(end, RequestEnd)) == ("b", True), "first: it waits for the other"
    assert (ended.req_id, ended.num_before, ended.has_ended) == ("b", 6, True)
    assert running == msgspec.structs.replace(first, num_before=4 + 3)
    assert (new.req_id, new.num_before) == ("c", 0)
    scheduled.step(a=(-1, 1))
    assert len(scheduled.messages) == 4, "once"


def come_back(scheduled: Scheduled) -> list[Message]:
    """A monitor after another one: what it is told."""
    scheduled.connection.is_up = False
    scheduled.step()
    scheduled.connection.is_up = True
    del scheduled.messages[:]
    scheduled.step()
    return scheduled.messages


def test_what_has_just_ended_is_told_to_each_monitor_that_comes_back(scheduled: Scheduled):
    """The one that has heard of it may not have stored it."""
    for _ in range(2):
        scheduled.add("a", [1, 2])
        scheduled.step(a=(0, 2))
        scheduled.end("a")
        scheduled.outbox.num_dropped = 3
        end, start = come_back(scheduled)[-2:]
        assert (end.req_id, end.num_scheduled, end.num_dropped) == ("a", 2, 3)
        assert (start.req_id, start.num_before, start.has_ended) == ("a", 2, True)


def test_what_ended_a_while_ago_is_told_to_nobody(
    scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(request_reporter, "_KEEP_S", 0.0)
    for req_id in "abc":
        scheduled.add(req_id, [1, 2])
        scheduled.step(**{req_id: (0, 2)})
        scheduled.end(req_id)
    assert {message.req_id for message in come_back(scheduled)} == {"c"}


def test_once_messages_were_lost_the_monitor_is_told_what_runs_until_that_arrives():
    scheduled = Scheduled(prefix="dp1/")
    scheduled.add("a", [1, 2])
    scheduled.add("b", [1, 2])
    scheduled.step(a=(0, 2), b=(0, 2))
    scheduled.end("a")
    assert not scheduled.of(Running)
    for is_full in (True, False):
        scheduled.is_full = is_full
        scheduled.outbox.num_dropped += is_full
        scheduled.step(b=(-1, 1))
    assert scheduled.of(Running) == [Running(0, ["dp1/b"], num_dropped=2)]
    scheduled.step(b=(-1, 1))
    assert len(scheduled.of(Running)) == 1, "once"
