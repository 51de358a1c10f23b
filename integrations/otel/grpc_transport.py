"""OTLP over gRPC, by the stubs that belong to the protocol.

The SDK's exporters would throw the reply away with its `partial_success`, retry within a time of
their own, and tell no refusal from an outage.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from saeguard.integrations.http import read_certificates, read_headers
from saeguard.monitor.delivery import DeliveryError
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.secrets import Headers

_STUBS: dict[Any, Any] = {
    ExportLogsServiceRequest: LogsServiceStub,
    ExportTraceServiceRequest: TraceServiceStub,
    ExportMetricsServiceRequest: MetricsServiceStub,
}

# Those whose counterparts over HTTP (google.rpc.Code) refuse alerts, too. All others speak of the
# server's state or of the sender's settings. INTERNAL is no refusal, as 500 is none.
_ABOUT_THE_ALERTS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ALREADY_EXISTS,
}
_CONNECTION_MAY_BE_DEAD = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@dataclass(frozen=True)
class _Connection:
    """A channel, and the stubs that are made along with it: to make one on a channel that `close`
    has closed from another thread would crash the process.
    """

    channel: Any
    stubs: dict[Any, Any]


class GrpcTransport:
    """To a server such as `http://localhost:4317`, or `https://` for TLS."""

    def __init__(
        self,
        endpoint: str,
        headers: Headers | None,
        timeout_s: float,
        ca_file: Path | None,
    ) -> None:
        parts = urlsplit(endpoint)
        if parts.port is None or parts.path or parts.query:
            raise ConfigError(
                f"for gRPC the OTLP endpoint {endpoint!r} has to be a host with a port",
                "such as http://localhost:4317",
            )
        self._endpoint = endpoint
        self._target = parts.netloc
        self._metadata = _metadata(headers)
        self._timeout_s = timeout_s
        self._credentials = None
        if parts.scheme == "https":
            pem = read_certificates(ca_file) if ca_file else None
            self._credentials = grpc.ssl_channel_credentials(pem)
        self._connection = self._connect()

    def send(self, request: Any) -> Any:
        stub = self._connection.stubs[type(request)]
        try:
            return stub.Export(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            code = error.code()
            if code in _CONNECTION_MAY_BE_DEAD:
                self._reconnect()
            raise DeliveryError(
                f"{self._endpoint}: {code.name}: {error.details()}",
                retriable=code not in _ABOUT_THE_ALERTS,
            ) from error
        except ValueError as error:  # what gRPC says of a channel that `close` has closed
            raise DeliveryError(f"{self._endpoint}: {error}", retriable=True) from error

    def close(self) -> None:
        self._connection.channel.close()

    def _connect(self) -> _Connection:
        options = [("grpc.use_local_subchannel_pool", 1)]  # else the next channel gets the dead one
        gzip = grpc.Compression.Gzip
        if self._credentials is None:
            channel = grpc.insecure_channel(self._target, options, gzip)
        else:
            channel = grpc.secure_channel(self._target, self._credentials, options, gzip)
        return _Connection(channel, {request: stub(channel) for request, stub in _STUBS.items()})

    def _reconnect(self) -> None:
        """A channel notices a peer that went away silently after many minutes only, and waits up to
        two of them before it connects to one that is back. When to try again is for the sender.
        """
        self.close()
        self._connection = self._connect()


def _metadata(headers: Headers | None) -> tuple[tuple[str, str], ...]:
    """
    Raises:
        ConfigError: gRPC keeps one of the names for itself, or for bytes.
    """
    metadata = {name.lower(): value for name, value in read_headers(headers).items()}
    for name in metadata:
        if name.startswith("grpc-") or name.endswith("-bin"):
            raise ConfigError(f"the header {name!r} cannot be sent over gRPC")
    return tuple(metadata.items())
