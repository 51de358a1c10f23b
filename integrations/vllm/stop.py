"""Ends requests that the monitor wants ended, on the engine's thread and without waiting.

The place is where vLLM takes in its clients' aborts: a step's result is there and has not been
handed out yet. So what that step sampled is not delivered any more, and a step that is already
under way (async scheduling) finds the request gone, as after an abort.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import zmq
from vllm.logger import init_logger
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.request import RequestStatus

from saeguard.integrations.vllm.control import subscribe
from saeguard.monitor.messages import STOP_REASON, Stop, decode_control

logger = init_logger("vllm.saeguard.stop")


class Stopper:
    """Hears the monitor at every step of one scheduler.

    A stop is for a request that is waiting, running or preempted. One that comes too late, twice,
    or for a request of another engine finds no such request, and does nothing.
    """

    def __init__(self, scheduler: Any, control: str, prefix: str = "") -> None:
        """
        Args:
            control: endpoint where the monitor speaks.
            prefix: what its ids of this engine's requests begin with.
        """
        self._scheduler = scheduler
        self._prefix = prefix
        self._socket = subscribe(control)
        self._has_failed = False

    def install(self) -> None:
        """Wrap `update_from_output` of this scheduler. Nothing of ours can raise into it."""
        update = self._scheduler.update_from_output

        def stop_and_update(*args: Any, **kwargs: Any) -> Any:
            stopped = self.stop()
            outputs = update(*args, **kwargs)
            for client, output in stopped:
                outputs.setdefault(client, EngineCoreOutputs()).outputs.append(output)
            return outputs

        self._scheduler.update_from_output = stop_and_update

    def stop(self) -> list[tuple[int, EngineCoreOutput]]:
        """End what is to be ended; the last output of each request, and whose client's it is."""
        try:
            return [last for message in self._heard() if (last := self._end(message))]
        except Exception:
            if not self._has_failed:
                logger.exception("saeguard failed to stop a request; serving goes on")
            self._has_failed = True
            return []

    def close(self) -> None:
        self._socket.close()

    def _heard(self) -> Iterator[Stop]:
        while True:
            try:
                data = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = decode_control(data)
            except msgspec.MsgspecError as error:
                logger.error("saeguard: the monitor said what cannot be read: %s", error)
                continue
            if isinstance(message, Stop):
                yield message

    def _end(self, message: Stop) -> tuple[int, EngineCoreOutput] | None:
        if not message.req_id.startswith(self._prefix):
            return None
        req_id = message.req_id.removeprefix(self._prefix)
        request = self._scheduler.requests.get(req_id)
        if request is None or request.is_finished():
            return None
        request.stop_reason = STOP_REASON + message.rule
        self._scheduler.finish_requests(req_id, RequestStatus.FINISHED_STOPPED)
        logger.info("saeguard stopped %s: %s", req_id, message.rule)
        return request.client_index, EngineCoreOutput(
            request_id=req_id,
            new_token_ids=[],
            finish_reason=request.get_finished_reason(),
            stop_reason=request.stop_reason,
            events=request.take_events(),
            trace_headers=request.trace_headers,
        )
