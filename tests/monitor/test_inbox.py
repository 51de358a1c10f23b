"""Where vLLM's processes put their messages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from saeguard.monitor.inbox import BATCH, Inbox

SIZE = 4096
IN_BUFFERS = 256
"""More of them than the system's own buffers hold."""


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path / 'inbox'}"


@pytest.fixture
def sender(endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    sender = zmq.Context.instance().socket(zmq.PUSH)
    sender.setsockopt(zmq.SNDHWM, 1)
    sender.connect(endpoint)
    yield sender
    sender.close(0)


def send_all(sender: zmq.Socket[bytes], first: int = 0) -> int:
    """As many numbered messages as find room; the number of the next one."""
    number = first
    while sender.poll(500, zmq.POLLOUT) and number < 5_000:
        sender.send(number.to_bytes(SIZE, "little"))
        number += 1
    return number


def take(inbox: Inbox, count: int) -> list[int]:
    taken: list[int] = []
    while len(taken) < count:
        assert inbox.wait(30)
        taken += [int.from_bytes(data, "little") for data in inbox.take()]
    return taken


def test_a_monitor_that_hangs_holds_two_batches_and_its_senders_the_rest(
    endpoint: str, sender: zmq.Socket[bytes]
):
    inbox = Inbox(endpoint, max_in_socket=2 * BATCH)
    num_sent = send_all(sender)
    assert num_sent < 2 * BATCH + IN_BUFFERS
    assert take(inbox, num_sent) == list(range(num_sent))
    inbox.close()


def test_a_monitor_that_is_slow_holds_so_many_bytes_more(endpoint: str, sender: zmq.Socket[bytes]):
    num_more = 500
    inbox = Inbox(endpoint, max_bytes=num_more * SIZE, max_in_socket=2 * BATCH)
    num_sent, taken = send_all(sender), []
    for _ in range(10):
        taken += take(inbox, 1)
        num_sent = send_all(sender, num_sent)
    assert num_sent < len(taken) + num_more + 2 * BATCH + IN_BUFFERS
    taken += take(inbox, num_sent - len(taken))
    assert taken == list(range(num_sent))
    inbox.close()


def test_it_knows_of_what_waits_with_the_senders(endpoint: str, sender: zmq.Socket[bytes]):
    inbox = Inbox(endpoint, max_bytes=2 * SIZE, max_in_socket=2 * BATCH)
    num_sent = send_all(sender)
    for _ in range(BATCH // 2):
        assert len(inbox.take()) == 2  # fewer than a batch, and yet not all
        assert not inbox.is_empty
    take(inbox, num_sent - BATCH)
    assert inbox.take() == []
    assert inbox.is_empty
    inbox.close()


def test_what_a_sender_that_has_ended_left_behind_all_arrives(endpoint: str):
    inbox, num_sent = Inbox(endpoint), 2 * BATCH + 60
    sender = zmq.Context.instance().socket(zmq.PUSH)
    sender.connect(endpoint)
    for number in range(num_sent):
        sender.send(number.to_bytes(300, "little"))
    sender.close(linger=60_000)
    time.sleep(0.5)  # so that it ends while nobody takes anything
    assert take(inbox, num_sent) == list(range(num_sent))
    inbox.close()
