"""`saeguard.yaml`: what a server is watched with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from saeguard.monitor.errors import ConfigError
from saeguard.monitor.secrets import FromEnv
from saeguard.rules import RuleSet, load_rules
from saeguard.rules.errors import RuleError, RuleErrors
from saeguard.rules.loading.document import Document, KeyPath, read_document
from saeguard.rules.loading.sources import is_pack


def _yaml_off(value: object) -> object:
    return "off" if value is False else value  # YAML 1.1 reads a bare `off` as false


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Destination(_Strict):
    """Where alerts are delivered: `kind` names an entry point, what is not here are its options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str
    name: str | None = Field(default=None, min_length=1)
    """In the store, metrics and commands. Where none is given it is that of the place."""

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Prometheus(_Strict):
    """Where metrics can be scraped."""

    port: int = Field(ge=1, le=65535)
    host: str = "127.0.0.1"


class Metrics(_Strict):
    """By OTLP, by scrape, or both."""

    endpoint: str | None = None
    """Of OTLP, like all up to `prometheus`."""
    protocol: Literal["http", "grpc"] = "http"
    headers: dict[str, str | FromEnv] = Field(default_factory=dict)
    interval_s: float = Field(default=10.0, gt=0)
    timeout_s: float = Field(default=5.0, gt=0)
    ca_file: Path | None = None
    service_name: str = "saeguard"
    prometheus: Prometheus | None = None

    @model_validator(mode="after")
    def _lead_somewhere(self) -> Metrics:
        if self.endpoint is None and self.prometheus is None:
            raise ValueError("needs an OTLP endpoint, or prometheus with a port")
        return self

    @property
    def otlp(self) -> dict[str, Any] | None:
        """Arguments of the exporter, where one is wanted."""
        if self.endpoint is None:
            return None
        return {name: value for name, value in self if name != "prometheus"}


def _visible(text: str) -> str:
    if not text.strip():
        raise ValueError("needs a visible character")
    return text


Visible = Annotated[str, AfterValidator(_visible)]


class Delimited(_Strict):
    """A phase lies between these two texts, as the model's tokenizer writes them."""

    open: Visible
    close: Visible | None = None
    """None: it lasts until something else opens."""


class SystemDelimited(Delimited):
    """Of the prompt, which goes on after the system text."""

    close: Visible


class Phases(_Strict):
    """What is told of the phases' delimiters instead of being read off the model's template."""

    chat_template: Path | None = None
    """The file given to the server's --chat-template, which the monitor cannot see."""
    system: SystemDelimited | None = None
    reasoning: Delimited | None = None
    tool_call: Delimited | None = None


class Config(_Strict):
    """The validated file; every path in it is relative to the file and comes back absolute."""

    path: Path
    version: Literal[1]
    rules: Annotated[tuple[str | Path, ...], Field(min_length=1)]
    """Files, directories, and packs, which stay as they are: `pack:deception`."""
    watchlist: Path
    reload: bool = True
    """Take up changes of rules and watchlist while the monitor runs."""
    fail: Literal["open", "closed"] = "open"
    """When monitoring is impossible: serve unwatched, loudly, or do not serve."""
    allow_opt_out: bool = False
    """Whether clients may opt out of rules that are not `mandatory`."""
    store: Path = Path("saeguard-alerts.sqlite")
    store_mib: int = Field(default=4096, ge=1)
    """How large the store may grow; then what is oldest goes, delivered alerts before others."""
    capture_text: Annotated[Literal["off", "hash", "window"], BeforeValidator(_yaml_off)] = "off"
    """Of the recorded tokens of requests that raise an alert: nothing, a keyed hash of each, or the
    text.
    """
    hash_key_file: Path | None = None
    """With the key, for `capture_text: hash`."""
    phases: Phases = Phases()
    record_tokens: int = Field(default=1024, ge=1)
    """How many of a request's last tokens are kept with their scores."""
    record_share: float = Field(default=0.0, ge=0, le=1)
    """Of the requests that raise no alert and were wholly seen, to be recorded as well."""
    prefix_scores_mib: int = Field(default=256, ge=0)
    """How much memory the scores of what is in vLLM's prefix cache may take, for each model."""
    log: Literal["json", "console"] = "console"
    destinations: tuple[Destination, ...] = ()
    metrics: Metrics | None = None
    start_monitor: bool = True
    """False: somebody runs `saeguard monitor` by hand, with the same `run_dir`."""
    run_dir: Path | None = None
    """Directory of the sockets between vLLM and the monitor; by default a private one for each
    engine.
    """

    @field_validator("rules", "watchlist", "store", "run_dir", "hash_key_file")
    @classmethod
    def _absolute(cls, value: Any, info: Any) -> Any:
        """Links are not followed: where they lead may change, as in a Kubernetes ConfigMap."""
        if value is None:
            return None
        base = info.data["path"].parent
        if isinstance(value, tuple):
            return tuple(item if is_pack(item) else base / item for item in value)
        return base / value

    @field_validator("phases")
    @classmethod
    def _with_absolute_template(cls, value: Phases, info: Any) -> Phases:
        if value.chat_template is None:
            return value
        file = info.data["path"].parent / value.chat_template
        try:
            file.read_text()
        except (OSError, UnicodeError) as error:
            raise ValueError(f"chat_template cannot be read: {error}") from error
        return value.model_copy(update={"chat_template": file})

    @field_validator("metrics")
    @classmethod
    def _with_absolute_certificates(cls, value: Metrics | None, info: Any) -> Metrics | None:
        if value is None or value.ca_file is None:
            return value
        return value.model_copy(update={"ca_file": info.data["path"].parent / value.ca_file})

    @model_validator(mode="after")
    def _complete(self) -> Config:
        if self.capture_text == "hash" and self.hash_key_file is None:
            raise ValueError("capture_text: hash needs a hash_key_file")
        if not self.start_monitor and self.run_dir is None:
            raise ValueError("start_monitor: false needs a run_dir that the monitor listens in")
        return self


def load_config(path: Path) -> Config:
    """Read and validate a configuration file.

    Raises:
        ConfigError: the file is missing or wrong; every fault as `file:line:column: message`.
    """
    path = path.absolute()
    try:
        document = read_document(path)
    except RuleErrors as errors:
        raise ConfigError(str(errors), "see the example in docs/configuration.md") from errors
    faults = [str(error) for error in document.errors]
    data = {key: value for key, value in document.data.items() if key != "path"}
    try:
        config = Config(path=path, **data)
    except ValidationError as error:
        for fault in error.errors():
            keys = tuple(fault["loc"])
            message = f"{'.'.join(map(str, keys))}: {fault['msg']}"
            faults.append(str(_located(document, keys, message)))
    if faults:
        raise ConfigError("\n".join(faults))
    return config


def locate(path: Path, faults: Iterable[tuple[KeyPath, str]]) -> str:
    """Faults that came to light only later, each as `file:line:column: message`."""
    try:
        document = read_document(path)
    except RuleErrors:  # it has been changed since
        return "\n".join(f"{path}: {message}" for _, message in faults)
    return "\n".join(str(_located(document, keys, message)) for keys, message in faults)


def _located(document: Document, place: KeyPath, message: str) -> RuleError:
    """The fault at its key, or at the nearest place above it that the file has."""
    while place and place not in document.values:
        place = place[:-1]
    return document.key_at(place).error(message)


def read_rules(items: Sequence[Path | str]) -> RuleSet:
    """`load_rules` for commands whose business is not to list the faults.

    Raises:
        ConfigError: the rules are wrong; every fault as `file:line:column: message`.
    """
    try:
        return load_rules(items)
    except RuleErrors as errors:
        raise ConfigError(str(errors), "mend the rules, or see saeguard check") from errors
