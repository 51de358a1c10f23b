"""The way to an OTLP server: `http` or `grpc`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

from saeguard.integrations.http import check_url
from saeguard.integrations.otel.http_transport import HttpTransport
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.secrets import Headers

OtlpProtocol = Literal["http", "grpc"]


class Transport(Protocol):
    """Sends the requests of all signals to one server."""

    def send(self, request: Any) -> Any:
        """The reply to an `Export…ServiceRequest` once the server has taken it; what its
        `partial_success` rejects is not looked at.

        Raises:
            DeliveryError: it did not take it; not retriable where the fault is in what was sent.
        """

    def close(self) -> None: ...


def connect(
    protocol: OtlpProtocol,
    endpoint: str,
    headers: Headers | None,
    timeout_s: float,
    ca_file: Path | None,
) -> Transport:
    """A transport to this endpoint; nothing is sent yet.

    Raises:
        ConfigError: it cannot be used, or the package for gRPC is missing.
    """
    endpoint = check_url(endpoint, "OTLP endpoint")
    if protocol == "http":
        return HttpTransport(endpoint, headers, timeout_s, ca_file)
    try:
        from saeguard.integrations.otel.grpc_transport import GrpcTransport
    except ImportError as error:
        raise ConfigError(f"OTLP over gRPC: {error}", "pip install 'saeguard[grpc]'") from error
    return GrpcTransport(endpoint, headers, timeout_s, ca_file)
