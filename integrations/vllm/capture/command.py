"""`saeguard capture`."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
import yaml
from rich.console import Console
from rich.progress import Progress

from saeguard.integrations.output import printing_to
from saeguard.integrations.vllm.capture import silent
from saeguard.integrations.vllm.capture.bounds import LONGEST, STORE_MIB, Bounds, Disk
from saeguard.integrations.vllm.capture.data import read_items
from saeguard.integrations.vllm.capture.session import Captured, Session
from saeguard.integrations.vllm.capture.shards import Shards
from saeguard.integrations.vllm.capture.watched import Watched, watched
from saeguard.integrations.vllm.options import Model, VllmArgs
from saeguard.integrations.vllm.preflight import check_model, check_vllm
from saeguard.monitor.errors import ConfigError, SaeguardError
from saeguard.monitor.watchlist import save
from saeguard.rules.quantity import quantity

_NUM_LINES = 20


class EngineError(SaeguardError):
    """The engine did not start, or ended."""


def capture(
    model: Model,
    data: Annotated[
        Path, typer.Option(help="The requests: JSON lines with id and messages or prompt.")
    ],
    rules: Annotated[
        list[str] | None,
        typer.Option(help="Whose features are recorded: files, directories, pack:NAME."),
    ] = None,
    activations: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOOK_POINT",
            help="All that is read there: blocks.3.hook_resid_post; may be repeated.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A directory; one that has a part goes on.")
    ] = Path("captured"),
    vllm_args: VllmArgs = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Of an answer, where the request says nothing else.")
    ] = 256,
    max_disk_gib: Annotated[
        float, typer.Option(min=0.0, help="How large the directory may grow.")
    ] = 20.0,
) -> None:
    """Run requests through a model offline, and record the scores of the watched features, or
    activations.

    Exit code: 0 all are recorded, 1 not all, or some only in part, 2 wrong usage, or the engine did
    not run.
    """
    check_vllm()
    if not rules and not activations:
        raise ConfigError("give --rules or --activations, or both", "see saeguard capture --help")
    items = read_items(data)
    work = Path(tempfile.mkdtemp(prefix="saeguard-capture-"))
    try:
        watch = watched(rules or [], activations or [], model, work)
        check_model(model, watch.watchlist)
        shards = Shards(output)
        done = shards.done(watch.columns)
    except SaeguardError:
        shutil.rmtree(work)
        raise
    waiting = [item for item in items if item.id not in done]
    console = Console(file=_own_stderr(), highlight=False, markup=False, soft_wrap=True)
    if done:
        console.print(f"{len(items) - len(waiting)} of {len(items)} requests are recorded already")
    captured = Captured(0, ())
    if waiting:
        bounds, disk = Bounds(len(watch.columns)), Disk(output, int(max_disk_gib * 2**30))
        if bounds.record_tokens < LONGEST:
            console.print(f"of each request the last {bounds.record_tokens:,} tokens are recorded")
        config = _write_config(work, watch, bounds)
        console.print(f"starting the engine; its log is {work / 'engine.log'}")
        # Prefix caching would have the monitor keep activations of what is in vLLM's cache.
        arguments = [*(["--no-enable-prefix-caching"] if activations else []), *(vllm_args or [])]
        with _engine(model, arguments, config, work / "engine.log") as engine:
            store = work / "alerts.sqlite"
            session = Session(engine, store, shards, disk, watch, max_tokens)
            with Progress(console=console) as progress:
                task = progress.add_task("requests", total=len(waiting))
                captured = session.run(waiting, lambda n: progress.advance(task, n))
    if captured.failed:
        shutil.copy(work / "engine.log", output)
    shutil.rmtree(work)
    num_labels = shards.write_labels(data)
    num_done = len(items) - len(waiting) + captured.num_requests
    print(f"{output}: {quantity(num_done, 'request')} recorded, {quantity(num_labels, 'label')}")
    for name in captured.partly:
        print(f"  {name}: not all of its tokens were seen")
    for name in captured.failed:
        print(f"  {name}: ended by an error, and not recorded; the same command runs it again")
    if captured.failed:
        print(f"  why is in {output / 'engine.log'}")
    if captured.refusal is not None:
        print(f"  {len(items) - num_done} of {len(items)} were not run: {captured.refusal}")
    raise typer.Exit(1 if captured.partly or captured.failed or captured.refusal else 0)


def _own_stderr() -> TextIO:
    """Ours also while what vLLM prints is led elsewhere."""
    return os.fdopen(os.dup(2), "w", buffering=1)


def _write_config(work: Path, watch: Watched, bounds: Bounds) -> Path:
    save(watch.watchlist, work / "watch.safetensors")
    values = {
        "version": 1,
        "rules": [silent.FILE],
        "watchlist": "watch.safetensors",
        "store": "alerts.sqlite",
        "reload": False,
        "fail": "closed",  # what is not seen is not to be taken for silence
        "record_share": 1.0,
        "record_tokens": bounds.record_tokens,
        "store_mib": STORE_MIB,
    }
    path = work / "saeguard.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@contextlib.contextmanager
def _engine(model: str, vllm_args: list[str], config: Path, log: Path) -> Iterator[Any]:
    """A watched engine; what vLLM prints meanwhile goes to the log.

    Raises:
        EngineError: it did not start, or ended; with the end of the log.
    """
    os.environ |= {"SAEGUARD_CONFIG": str(config), "VLLM_NO_USAGE_STATS": "1"}
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # as `vllm serve` does
    with log.open("wb") as file, printing_to(file.fileno()):
        try:
            from saeguard.integrations.vllm.offline_engine import start_engine

            engine = start_engine(["--model", model, *vllm_args])
        except (Exception, SystemExit) as error:
            said = f"{error}\nthe end of {log}:\n{_tail(log)}"
            raise EngineError(f"the engine did not start: {said}") from error
        try:
            yield engine
        finally:
            engine.engine_core.shutdown()


def _tail(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-_NUM_LINES:])
