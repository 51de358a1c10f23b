"""With `fail: closed` the monitor is missed as soon as it is gone, hangs or is blind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_monitor import wait_for

pytest.importorskip("vllm")

from saeguard.integrations.vllm.presence import Presence
from saeguard.monitor.control import ControlChannel
from saeguard.monitor.messages import Alive, Stop


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path / 'control'}"


@pytest.fixture
def channel(endpoint: str) -> Iterator[ControlChannel]:
    channel = ControlChannel(endpoint)
    yield channel
    channel.close()


@pytest.fixture
def presence(endpoint: str, tmp_path: Path, channel: ControlChannel) -> Iterator[Presence]:
    presence = Presence(endpoint, tmp_path / "refusing")
    presence.start()
    until(channel, "first", lambda: presence._instance == "first")
    yield presence
    presence.close()
    assert not (tmp_path / "refusing").exists()


def until(channel: ControlChannel, instance: str, condition, blind: str = "") -> None:
    """Signs of life until something has come of them."""

    def is_true() -> bool:
        channel.send(Alive(instance, blind))
        return condition()

    wait_for(is_true)


def door(tmp_path: Path) -> str | None:
    path = tmp_path / "refusing"
    return path.read_text() if path.exists() else None


def test_what_says_something_is_there(presence: Presence, channel: ControlChannel, tmp_path: Path):
    for _ in range(10):
        channel.send(Stop("r", "a", "high", "1"))
        time.sleep(0.1)
    assert presence.is_there
    assert (presence.num_losses, door(tmp_path)) == (0, None)


def test_what_is_silent_is_missed_and_may_come_back(
    presence: Presence, channel: ControlChannel, tmp_path: Path
):
    wait_for(lambda: not presence.is_there)
    assert "no sign of life, and the configuration says fail: closed" in (door(tmp_path) or "")
    time.sleep(4.0)
    assert presence.num_losses == 1
    until(channel, "first", lambda: presence.is_there)
    assert door(tmp_path) is None


def test_one_that_has_died_is_missed_at_once_and_not_believed_any_more(
    presence: Presence, channel: ControlChannel, tmp_path: Path
):
    presence.died()
    assert not presence.is_there
    assert "the monitor has ended" in (door(tmp_path) or "")
    for _ in range(10):  # what it had said before is heard late
        channel.send(Alive("first"))
        time.sleep(0.05)
    assert not presence.is_there
    until(channel, "second", lambda: presence.is_there)
    assert presence.num_losses == 1


def test_a_new_one_does_not_know_what_the_old_one_knew(presence: Presence, channel: ControlChannel):
    until(channel, "second", lambda: presence._instance == "second")
    wait_for(lambda: presence.is_there)
    assert presence.num_losses == 1


def test_a_blind_one_is_none(presence: Presence, channel: ControlChannel, tmp_path: Path):
    until(channel, "first", lambda: not presence.is_there, blind="the taps do not run")
    assert "blind: the taps do not run" in (door(tmp_path) or "")
    until(channel, "first", lambda: presence.is_there)
