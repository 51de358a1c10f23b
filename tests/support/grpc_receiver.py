"""An OTLP/gRPC server within the process that keeps what it takes, and can be told to fail."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace

from saeguard.integrations.otel.received import Received


class GrpcReceiver(Received):
    """Listens on a port of 127.0.0.1, which it keeps when it stops and starts again."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        super().__init__()
        self.delay_s = 0.0
        """Before every answer."""
        self.num_failed = 0
        self.metadata: dict[str, str] = {}
        """Of the newest request."""
        self.signals = ("logs", "traces", "metrics")
        """Which services there are, from the next start on."""
        self._credentials = credentials
        self._status: grpc.StatusCode | None = None
        self._refused = ""
        self.port = 0
        self.start()

    @property
    def endpoint(self) -> str:
        scheme = "http" if self._credentials is None else "https"
        return f"{scheme}://localhost:{self.port}"

    def fail_with(self, status: grpc.StatusCode) -> None:
        """Answers this status and keeps nothing, until `recover`."""
        self._status = status

    def refuse(self, alert_id: str) -> None:
        """Answers INVALID_ARGUMENT to whatever holds this alert."""
        self._refused = alert_id

    def recover(self) -> None:
        self._status = None
        self.delay_s = 0.0

    def start(self, **options: int) -> None:
        """
        Args:
            options: of gRPC, such as `max_receive_message_length`.
        """
        arguments = [(f"grpc.{name}", value) for name, value in options.items()]
        self._server = grpc.server(ThreadPoolExecutor(4), options=arguments)
        services = {
            "logs": (logs.add_LogsServiceServicer_to_server, self.take_logs),
            "traces": (trace.add_TraceServiceServicer_to_server, self.take_spans),
            "metrics": (metrics.add_MetricsServiceServicer_to_server, self.take_metrics),
        }
        for signal in self.signals:
            add, take = services[signal]
            add(_Servicer(self, take), self._server)
        address = f"localhost:{self.port}"
        if self._credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, self._credentials)
        self._server.start()

    def stop(self) -> None:
        """Cuts every connection."""
        self._server.stop(None).wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def answer(self, request: Any, context: grpc.ServicerContext, take: Any) -> Any:
        self.metadata = dict(context.invocation_metadata())
        time.sleep(self.delay_s)
        status = self._status
        if self._refused and self._refused.encode() in request.SerializeToString():
            status = grpc.StatusCode.INVALID_ARGUMENT
        if status is not None:
            self.num_failed += 1
            context.abort(status, "told to")
        return take(request)


class _Servicer:
    def __init__(self, receiver: GrpcReceiver, take: Any) -> None:
        self._receiver = receiver
        self._take = take

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._receiver.answer(request, context, self._take)
