"""A Phoenix server's REST API: the few calls that reviewing alerts needs."""

from __future__ import annotations

import http.client
import urllib.error
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from saeguard.integrations.http import HttpClient, check_url
from saeguard.monitor.errors import SaeguardError

_SPANS_AT_ONCE = 200
"""In one query: what is between us and Phoenix may refuse addresses beyond 8 KiB."""
_PAGE_SIZE = 1000
_REASON_BYTES = 300
_JSON = {"Content-Type": "application/json"}
_REMEDIES = {
    401: "give a key of Phoenix with --api-key-file or in $PHOENIX_API_KEY",
    403: "the key is of somebody who may not do this",
}


class PhoenixError(SaeguardError):
    """Phoenix is away, or refuses; `status` is that of its answer, where there is one."""

    def __init__(self, message: str, remedy: str = "", status: int | None = None) -> None:
        super().__init__(message, remedy)
        self.status = status


class Label(msgspec.Struct, frozen=True):
    label: str | None = None
    explanation: str | None = None


class Annotation(msgspec.Struct, frozen=True):
    """What somebody, or something, says of a span."""

    name: str
    span_id: str
    """Hexadecimal."""
    annotator_kind: str
    """HUMAN, LLM or CODE."""
    updated_at: datetime
    result: Label | None = None
    identifier: str = ""
    """Tells apart several of one name on one span."""
    user_id: str | None = None
    """None where Phoenix asks nobody to log in."""


class _Named(msgspec.Struct):
    name: str
    values: list[Label] = []
    """Of an annotation config."""


T = TypeVar("T")


class _Page(msgspec.Struct, Generic[T]):
    data: T
    next_cursor: str | None = None


class PhoenixServer:
    """
    Args:
        endpoint: such as `http://localhost:6006`.
        api_key: for a server that asks for one.

    Raises:
        ConfigError: the endpoint is no URL, or the key cannot be sent.
        PhoenixError: in every method, when the server is away or refuses.
    """

    def __init__(
        self,
        endpoint: str,
        api_key: str | None = None,
        ca_file: Path | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self._endpoint = check_url(endpoint, "Phoenix endpoint")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = HttpClient(headers, timeout_s, ca_file)

    def project_names(self) -> list[str]:
        """The newest hundred."""
        return [project.name for project in self._get("projects", list[_Named]).data]

    def has_project(self, project: str) -> bool:
        return self._find(f"projects/{_quoted(project)}", _Named) is not None

    def make_project(self, project: str) -> None:
        self._send("POST", "projects", {"name": project})

    def labels(self, name: str) -> list[str | None] | None:
        """What the annotation config of this name offers; None where there is no such config."""
        found = self._find(f"annotation_configs/{_quoted(name)}", _Named)
        return [value.label for value in found.data.values] if found else None

    def make_labels(self, name: str, labels: Iterable[str], description: str) -> None:
        """An annotation config, of which a reviewer chooses one label."""
        config = {
            "name": name,
            "type": "CATEGORICAL",
            "description": description,
            "optimization_direction": "NONE",
            "values": [{"label": label} for label in labels],
        }
        self._send("POST", "annotation_configs", config)

    def offer_labels(self, name: str, project: str) -> None:
        """Has the annotation config shown beside every span of the project."""
        self._send("PUT", f"projects/{_quoted(project)}/annotation_configs/{_quoted(name)}")

    def annotations(self, project: str, span_ids: Sequence[str], name: str) -> Iterator[Annotation]:
        """Those of this name on spans that are in the project; others of the ids do not matter."""
        for start in range(0, len(span_ids), _SPANS_AT_ONCE):
            some = span_ids[start : start + _SPANS_AT_ONCE]
            yield from self._annotations(project, some, name)

    def _annotations(
        self, project: str, span_ids: Sequence[str], name: str
    ) -> Iterator[Annotation]:
        query = [("span_ids", each) for each in span_ids]
        query += [("include_annotation_names", name), ("limit", str(_PAGE_SIZE))]
        path = f"projects/{_quoted(project)}/span_annotations?{urlencode(query)}"
        page = self._find(path, list[Annotation])
        while page:  # None: not one of these spans is there
            yield from (each for each in page.data if each.name == name)
            if page.next_cursor is None:
                return
            page = self._find(f"{path}&cursor={_quoted(page.next_cursor)}", list[Annotation])

    def _find(self, path: str, kind: type[T]) -> _Page[T] | None:
        """None where there is no such thing."""
        try:
            return self._get(path, kind)
        except PhoenixError as error:
            if error.status == 404:
                return None
            raise

    def _get(self, path: str, kind: type[T]) -> _Page[T]:
        body = self._send("GET", path)
        try:
            return msgspec.json.decode(body, type=_Page[kind])  # type: ignore[valid-type]
        except msgspec.DecodeError as error:
            raise PhoenixError(
                f"{self._endpoint} answers otherwise than Phoenix: {error}",
                "check the endpoint; tested with arize-phoenix 20.26",
            ) from error

    def _send(self, method: str, path: str, body: Mapping[str, object] | None = None) -> bytes:
        data = None if body is None else msgspec.json.encode(body)
        try:
            return self._http.request(method, f"{self._endpoint}/v1/{path}", data, _JSON).body
        except urllib.error.HTTPError as error:
            with error:
                reason = error.read(_REASON_BYTES).decode(errors="replace") or error.reason
            what = f"{method} /v1/{path.split('?')[0]}"
            raise PhoenixError(
                f"Phoenix at {self._endpoint} refuses {what}: {error.code} {reason}",
                _REMEDIES.get(error.code, ""),
                error.code,
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise PhoenixError(
                f"no Phoenix answers at {self._endpoint}: {getattr(error, 'reason', error)}",
                "give its URL with --endpoint",
            ) from error


def _quoted(name: str) -> str:
    return quote(name, safe="")
