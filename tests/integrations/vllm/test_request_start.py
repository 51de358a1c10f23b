"""What a client says about itself reaches the monitor."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("vllm")

from vllm.sampling_params import SamplingParams
from vllm.v1.request import Request

from saeguard.integrations.vllm.engine import RequestReporter
from saeguard.monitor.messages import RequestStart


class Outbox:
    """Keeps what is posted."""

    def __init__(self) -> None:
        self.messages: list[RequestStart] = []

    def post(self, build) -> None:
        self.messages.append(build()[0])


@pytest.mark.parametrize(
    ("xargs", "tenant", "client"),
    [
        ({"tenant": "acme", "client": "app-7"}, "acme", "app-7"),
        ({"tenant": 7}, "7", None),
        ({}, None, None),
        (None, None, None),
    ],
)
def test_tenant_and_client_come_from_the_request_s_vllm_xargs(xargs, tenant, client):
    outbox = Outbox()
    request = Request(
        request_id="chatcmpl-1-abcdefgh",
        prompt_token_ids=[1, 2],
        sampling_params=SamplingParams(extra_args=xargs),
        pooling_params=None,
        arrival_time=time.time(),
    )
    RequestReporter("m", None, outbox).started(request)
    (message,) = outbox.messages
    assert (message.tenant, message.client) == (tenant, client)
    assert message.external_id == "chatcmpl-1"
