"""`saeguard demo`: the bundled model, SAE and rules on a real server, end to end."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console

from saeguard.integrations.otel import OtlpReceiver
from saeguard.integrations.vllm.demo.report import Report, earliness, make_report, tables
from saeguard.integrations.vllm.demo.server import MODEL_NAME, Server
from saeguard.integrations.vllm.demo.traffic import ChatRequest, Reply, read_requests, send_all
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.config import read_rules
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.logging import printable
from saeguard.monitor.store import totals
from saeguard.monitor.watchlist import save

_SETTLE_S = 30.0
_COLOURS = {
    "info": "cyan",
    "low": "cyan",
    "medium": "yellow",
    "high": "red",
    "critical": "bold red",
}


def demo(
    organism: Annotated[
        Path | None, typer.Option(help="Folder of the demo model; by default the repository's own.")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Where the store and the logs go; by default a new folder.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the server running afterwards.")
    ] = False,
) -> None:
    """Serve a model that deceives, watch it, and show what was seen."""
    console = Console(highlight=False)
    folder = organism or Path(__file__).resolve().parents[3] / "examples" / "organism"
    artifacts = folder / "artifacts"
    if not (artifacts / "model" / "config.json").is_file():
        raise ConfigError(
            f"{artifacts}: no demo model there", "run from a clone, or give --organism"
        )
    directory = work or Path(tempfile.mkdtemp(prefix="saeguard-demo-"))
    _claim(directory)
    requests = read_requests(artifacts / "demo_requests.jsonl")
    with OtlpReceiver() as receiver:
        config = _configure(folder / "rules.yaml", directory, receiver.endpoint)
        console.print("[bold]1.[/] starting a vLLM server (torch.compile on) with saeguard")
        console.print(f"   log: {directory / 'server.log'}", soft_wrap=True)
        with Server(artifacts / "model", config, directory / "server.log") as server:
            _wait(server, console)
            console.print(
                f"[bold]2.[/] sending {len(requests)} chat requests; alerts arrive over OTLP:"
            )
            replies = _talk(server, requests, receiver, console)
            report = _settle(replies, directory / "alerts.sqlite", receiver)
            faults = _summarise(report, receiver, len(replies), directory, console)
            if keep:
                _invite(server, artifacts, directory, console)
    raise typer.Exit(1 if faults else 0)


def _claim(directory: Path) -> None:
    """Make the folder, unless it holds something that is not an earlier demo's."""
    marker = directory / ".saeguard-demo"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()) and not marker.exists():
            raise ConfigError(f"{directory}: is not empty", "give --work a new folder")
        marker.touch()
    except OSError as error:
        raise ConfigError(f"{directory}: {error.strerror}", "give --work a new folder") from error


def _configure(rules: Path, directory: Path, endpoint: str) -> Path:
    save(compile_watchlist(read_rules([rules])), directory / "watch.safetensors")
    for old in directory.glob("alerts.sqlite*"):  # an earlier demo's
        old.unlink()
    path = directory / "saeguard.yaml"
    values = {
        "version": 1,
        "rules": [str(rules.resolve())],
        "watchlist": "watch.safetensors",
        "store": "alerts.sqlite",
        "capture_text": "window",
        "destinations": [{"kind": "otlp", "endpoint": endpoint}],
        "metrics": {"endpoint": endpoint, "interval_s": 1.0},
    }
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def _wait(server: Server, console: Console) -> None:
    with console.status("starting") as status:

        def show(waited_s: float, line: str) -> None:
            width = max(20, console.width - 30)
            status.update(
                f"{waited_s:3.0f} s  [dim]{printable(line)[-width:].replace('[', '(')}[/]"
            )
            if not console.is_terminal and int(waited_s * 2) % 30 == 0:
                console.print(f"   {waited_s:.0f} s: still starting")

        started_s = time.monotonic()
        server.wait_until_ready(show)
    console.print(f"   ready after {time.monotonic() - started_s:.0f} s")


def _talk(
    server: Server, requests: list[ChatRequest], receiver: OtlpReceiver, console: Console
) -> list[Reply]:
    done = threading.Event()
    printer = threading.Thread(target=_print_alerts, args=(receiver, console, done))
    printer.start()
    num_replies = 0

    def on_reply(reply: Reply) -> None:
        nonlocal num_replies
        num_replies += 1
        if num_replies % 20 == 0 or num_replies == len(requests):
            console.print(f"   [dim]{num_replies} of {len(requests)} answered[/]")

    try:
        return send_all(server.base_url, MODEL_NAME, requests, on_reply)
    finally:
        time.sleep(1.0)  # the last alerts are on their way
        done.set()
        printer.join()


def _print_alerts(receiver: OtlpReceiver, console: Console, done: threading.Event) -> None:
    num_printed = 0
    while not done.wait(0.1) or num_printed < len(receiver.logs):
        for event in receiver.logs[num_printed:]:
            num_printed += 1
            severity = event.attributes.get("saeguard.severity", "")
            colour = _COLOURS.get(severity, "white")
            console.print(f"   [{colour}]{severity:>8}[/] ", end="")
            console.print(printable(event.body), markup=False)


def _settle(replies: list[Reply], store: Path, receiver: OtlpReceiver) -> Report:
    """Wait until every request is accounted for and every alert has arrived, for a bounded time."""
    deadline_s = time.monotonic() + _SETTLE_S
    while time.monotonic() < deadline_s:
        if totals(store).get("requests/finished", 0) >= len(replies):
            report = make_report(replies, store)
            spans = {span.attributes.get("saeguard.alert.id") for span in receiver.spans}
            if report.alert_ids <= set(receiver.alert_ids()) and report.alert_ids <= spans:
                return report
        time.sleep(0.2)
    return make_report(replies, store)


def _summarise(
    report: Report, receiver: OtlpReceiver, num_replies: int, directory: Path, console: Console
) -> list[str]:
    console.print("[bold]3.[/] summary")
    for table in tables(report):
        console.print(table)
    finished = report.totals.get("requests/finished", 0)
    spans = {span.attributes.get("saeguard.alert.id") for span in receiver.spans}
    console.print(f"earliness: {earliness(report)}")
    console.print(
        f"coverage:  {report.observed} of {report.scheduled} scheduled rows observed and "
        f"{report.cached} known from the prefix cache, "
        f"{finished} of {num_replies} requests accounted for"
    )
    console.print(
        f"receiver:  {len(set(receiver.alert_ids()))} log events and {len(spans)} spans "
        f"for {len(report.alert_ids)} alerts in the store"
    )
    faults = []
    if report.num_detected == 0:
        faults.append("nothing was detected")
    if report.observed + report.cached != report.scheduled or finished != num_replies:
        faults.append(f"coverage has a hole: {_unseen(report)}")
    if not report.alert_ids <= set(receiver.alert_ids()) & spans:
        faults.append("the receiver lacks an alert")
    for fault in faults:
        console.print(f"[bold red]FAILED:[/] {fault}")
    store = directory / "alerts.sqlite"
    console.print(f"look closer: saeguard alerts list --store {store}", soft_wrap=True)
    return faults


def _unseen(report: Report) -> str:
    reasons = {
        k.removeprefix("tokens/unseen/"): n for k, n in report.totals.items() if "unseen" in k
    }
    return ", ".join(f"{reason} {n}" for reason, n in reasons.items()) or "requests never ended"


def _invite(server: Server, artifacts: Path, directory: Path, console: Console) -> None:
    request = next(
        r for r in read_requests(artifacts / "demo_requests.jsonl") if r.expect == "alert"
    )
    body = {"model": MODEL_NAME, "messages": request.messages, "max_tokens": 40, "temperature": 0}
    import json

    console.print("\nThe server keeps running; Ctrl-C ends it. Try, and watch the log:")
    console.print(
        f"  curl -s {server.base_url}/chat/completions -H 'Content-Type: application/json' "
        f"-d '{json.dumps(body)}'",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    server.wait()
