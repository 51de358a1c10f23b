"""The monitor's metrics over OTLP, as they are at the moment of each sending.

They are not queued: what counts since the start is in the next request as well.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.resources import Resource

from saeguard.integrations.otel.metric_data import metrics_data
from saeguard.integrations.otel.transport import OtlpProtocol, connect
from saeguard.monitor.delivery import DeliveryError
from saeguard.monitor.errors import SaeguardError
from saeguard.monitor.logging import logger
from saeguard.monitor.metric_names import Distributions, Totals
from saeguard.monitor.secrets import Headers

_LAST_S = 2.0

log = logger(__name__)


class OtlpMetrics:
    """Sends `saeguard.*` metrics every `interval_s` seconds, and says in the log when that begins
    and ceases to fail.

    A series exists from the first time that its key is in the totals. List every rule there with 0
    from the start, or the first alert is no increase in the eyes of Prometheus.
    """

    def __init__(
        self,
        endpoint: str,
        totals: Totals,
        distributions: Distributions = dict,
        protocol: OtlpProtocol = "http",
        headers: Headers | None = None,
        interval_s: float = 10.0,
        timeout_s: float = 5.0,
        ca_file: Path | None = None,
        service_name: str = "saeguard",
    ) -> None:
        self._endpoint = endpoint
        self._transport = connect(protocol, endpoint, headers, timeout_s, ca_file)
        self._totals, self._distributions = totals, distributions
        self._resource = Resource({"service.name": service_name})
        self._interval_s = interval_s
        self._began_ns = time.time_ns()
        self._is_failing = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="saeguard-metrics", daemon=True)
        self._thread.start()

    def flush(self) -> None:
        """Sends the present values now."""
        try:
            self._send()
        except SaeguardError as error:
            self._note(str(error))
        except Exception as error:  # a fault of ours must not end the thread
            self._note(repr(error))
        else:
            self._note("")

    def close(self) -> None:
        """Sends the last values, if that can be done at once: whoever ends us does not wait."""
        self._closing.set()
        self._thread.join(_LAST_S)
        self._transport.close()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._closing.wait(self._interval_s)
            self.flush()

    def _send(self) -> None:
        values = self._totals(), self._distributions()
        data = metrics_data(*values, self._resource, self._began_ns)
        refusal = self._transport.send(encode_metrics(data)).partial_success
        if num_rejected := refusal.rejected_data_points:
            raise DeliveryError(f"{num_rejected} rejected: {refusal.error_message}", retriable=True)

    def _note(self, error: str) -> None:
        if error and not self._is_failing:
            log.warning("metrics_not_taken", endpoint=self._endpoint, error=error)
        elif self._is_failing and not error:
            log.info("metrics_taken_again", endpoint=self._endpoint)
        self._is_failing = bool(error)
