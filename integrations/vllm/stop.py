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
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.request import RequestStatus

from saeguard.integrations.vllm.control import subscribe
from saeguard.integrations.vllm.presence import Presence
from saeguard.monitor.messages import STOP_REASON, UNWATCHED, Stop, decode_control

logger = init_logger("vllm.saeguard.stop")

Last = tuple[int, EngineCoreOutput]
"""The last output of a request, and the number of the client whose it is."""


class Stopper:
    """Hears the monitor at every step of one scheduler.

    A stop is for a request that is waiting, running or preempted. One that comes too late, twice,
    or for a request of another engine finds no such request, and does nothing.
    """

    def __init__(
        self, scheduler: Any, control: str, prefix: str = "", presence: Presence | None = None
    ) -> None:
        """
        Args:
            control: endpoint where the monitor speaks.
            prefix: what its ids of this engine's requests begin with.
            presence: of the monitor, without which nothing is to be served.
        """
        self._scheduler = scheduler
        self._prefix = prefix
        self._socket = subscribe(control)
        self._presence = presence
        self._num_losses = presence.num_losses if presence else 0
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

    def stop(self) -> list[Last]:
        """End what is to be ended."""
        try:
            ended = [self._stop(message) for message in self._heard()]
            ended += [self._refuse(req_id) for req_id in self._unwatched()]
            return [last for last in ended if last is not None]
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

    def _unwatched(self) -> list[str]:
        """All requests, once or for as long as the monitor that knew of them is gone."""
        presence = self._presence
        if presence is None or (presence.is_there and presence.num_losses == self._num_losses):
            return []
        self._num_losses = presence.num_losses
        return list(self._scheduler.requests)

    def _stop(self, message: Stop) -> Last | None:
        if not message.req_id.startswith(self._prefix):
            return None
        req_id, reason = message.req_id.removeprefix(self._prefix), STOP_REASON + message.rule
        verdict = {
            "rule": message.rule,
            "severity": message.severity,
            "alert_id": message.alert_id,
        }
        return self._end(req_id, RequestStatus.FINISHED_STOPPED, reason, verdict)

    def _refuse(self, req_id: str) -> Last | None:
        return self._end(req_id, RequestStatus.FINISHED_ERROR, UNWATCHED, None)

    def _end(
        self, req_id: str, status: RequestStatus, reason: str, verdict: dict[str, str] | None
    ) -> Last | None:
        request = self._scheduler.requests.get(req_id)
        if request is None or request.is_finished():
            return None
        request.stop_reason = reason
        stand_in = _stand_in(request) if verdict else []
        self._scheduler.finish_requests(req_id, status)
        logger.info("saeguard ended %s: %s", req_id, reason)
        return request.client_index, EngineCoreOutput(
            request_id=req_id,
            new_token_ids=stand_in,
            finish_reason=request.get_finished_reason(),
            stop_reason=reason,
            events=request.take_events(),
            # The one field of an answer that vLLM fills with whatever EngineCore puts there. With
            # KV transfer, whose it is, saeguard does not start.
            kv_transfer_params={"saeguard": verdict} if verdict else None,
            trace_headers=request.trace_headers,
        )


def _stand_in(request: Any) -> list[int]:
    """A token for a streamed request that has none yet: vLLM's server says nothing at all of one
    that ends without a token. Of one that ends with a stop token it takes the text away.
    """
    params = request.sampling_params
    is_needed = (
        params is not None
        and params.output_kind == RequestOutputKind.DELTA
        and params.logprobs is None  # there would have to be one of this token
        and request.num_output_tokens == 0
    )
    return [params.eos_token_id or 0] if is_needed else []
