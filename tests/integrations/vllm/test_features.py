"""A vLLM that lacks what is needed is named in one line, and left as it is."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from vllm.config import SchedulerConfig
from vllm.v1.core.sched.output import CachedRequestData, SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.worker import gpu_worker

from saeguard.integrations.vllm import register
from saeguard.integrations.vllm.engine import _observe
from saeguard.integrations.vllm.features import require, require_own_scheduler
from saeguard.monitor.errors import UnsupportedError


def test_without_a_place_for_one_gate_there_is_none_and_it_is_said_loudly(
    monkeypatch: pytest.MonkeyPatch,
):
    records: list[logging.LogRecord] = []
    monkeypatch.setattr(logging.getLogger("vllm.saeguard"), "handle", records.append)
    monkeypatch.delattr(gpu_worker, "Worker")
    register()
    register()
    (record,) = records
    assert record.levelname == "ERROR"
    assert "saeguard is BLIND: cannot import name 'Worker'" in record.getMessage()
    assert not hasattr(Scheduler.__init__, "_saeguard_gate")


def test_without_a_place_for_a_gate_vllm_does_not_start_where_the_configuration_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    config = tmp_path / "saeguard.yaml"
    config.write_text("fail: closed\n")
    monkeypatch.setenv("SAEGUARD_CONFIG", str(config))
    monkeypatch.delattr(gpu_worker.Worker, "load_model")
    monkeypatch.delattr(gpu_worker.WorkerBase, "load_model")
    with pytest.raises(RuntimeError, match=r"Worker has no load_model in this vLLM.*fail: closed"):
        register()


def test_what_fails_at_a_scheduler_is_told_once_and_reaches_nobody_in_vllm():
    class Watched:
        def schedule(self) -> str:
            return "output"

    def fail(_: object) -> None:
        raise KeyError("resumed_req_ids")

    scheduler, told = Watched(), []
    _observe(scheduler, "schedule", told.append, after=fail)
    assert [scheduler.schedule(), scheduler.schedule()] == ["output", "output"]
    assert told == ["failed at Scheduler.schedule: KeyError('resumed_req_ids')"]


def test_fields_of_dataclasses_structs_and_objects_are_found():
    require(SchedulerOutput, "num_scheduled_tokens")
    require(CachedRequestData.make_empty(), "resumed_req_ids")
    require(EngineCoreOutput, "stop_reason")
    with pytest.raises(UnsupportedError, match=r"SchedulerOutput has no one and no two in this"):
        require(SchedulerOutput, "one", "num_scheduled_tokens", "two")


def test_a_scheduler_that_is_not_vllms_is_refused():
    require_own_scheduler(SchedulerConfig.default_factory())
    with pytest.raises(UnsupportedError, match="the scheduler int is not derived from vLLM's"):
        require_own_scheduler(SchedulerConfig.default_factory(scheduler_cls=int))
