"""What vLLM's processes send to the monitor: without waiting, and with every loss counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from running_monitor import wait_for

pytest.importorskip("vllm")

from saeguard.integrations.vllm.control import ControlListener
from saeguard.integrations.vllm.outbox import DirectOutbox
from saeguard.monitor.messages import TapStatus, decode


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path / 'inbox'}"


@pytest.fixture
def outbox(endpoint: str) -> Iterator[DirectOutbox]:
    outbox = DirectOutbox(endpoint, max_pending=16)
    yield outbox
    outbox.close()


def monitor_at(endpoint: str) -> zmq.Socket[bytes]:
    inbox = zmq.Context.instance().socket(zmq.PULL)
    inbox.bind(endpoint)
    return inbox


def post(outbox: DirectOutbox, number: int) -> None:
    outbox.post(lambda: (TapStatus(rank=number, alive=True), None))


def receive(inbox: zmq.Socket[bytes]) -> list[int]:
    received = []
    while inbox.poll(300):
        received.append(decode(inbox.recv())[0].rank)
    return received


def test_what_does_not_fit_into_the_queue_is_counted_and_the_rest_arrives(
    outbox: DirectOutbox, endpoint: str
):
    for number in range(20):
        post(outbox, number)
    assert outbox.num_dropped == 4
    inbox = monitor_at(endpoint)
    assert receive(inbox) == list(range(16))
    post(outbox, 20)
    assert receive(inbox) == [20]
    assert outbox.num_dropped == 4
    inbox.close()


def test_what_cannot_be_built_is_counted(outbox: DirectOutbox):
    outbox.post(lambda: 1 / 0)
    assert outbox.num_dropped == 1


def test_a_monitor_that_goes_and_comes_back_is_noticed(outbox: DirectOutbox, endpoint: str):
    connection = outbox.connection
    assert (connection.is_up, connection.is_new()) == (True, False)
    inbox = monitor_at(endpoint)
    wait_for(connection.is_new)
    assert (connection.is_up, connection.is_new()) == (True, False)
    inbox.close()
    wait_for(lambda: not connection.is_up)
    post(outbox, 1)
    assert not connection.is_new()
    inbox = monitor_at(endpoint)
    wait_for(connection.is_new)
    assert connection.is_up
    assert receive(inbox) == [1], "it waited"
    inbox.close()


def test_a_monitor_that_comes_back_hears_again_what_it_has_to_know(endpoint: str):
    listener = ControlListener(f"{endpoint}.control", endpoint)
    inbox = monitor_at(endpoint)
    post(listener._outbox, 1)
    assert receive(inbox) == [1], "it is connected"
    faults = [TapStatus(rank=7, alive=False), None]
    listener.start(lambda message: None, lambda: faults.pop(0))
    inbox.close()
    inbox = monitor_at(endpoint)
    wait_for(lambda: len(faults) == 1)
    assert receive(inbox) == [7]
    inbox.close()
    inbox = monitor_at(endpoint)
    wait_for(lambda: not faults)
    assert receive(inbox) == [], "there is nothing to say any more"
    listener.close()
    inbox.close()
