"""`saeguard capture`."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
import yaml
from rich.console import Console
from rich.progress import Progress

from saeguard.integrations.vllm.capture.data import read_items
from saeguard.integrations.vllm.capture.session import Session
from saeguard.integrations.vllm.capture.shards import Shards
from saeguard.integrations.vllm.options import Model, VllmArgs
from saeguard.integrations.vllm.preflight import check_model, check_vllm
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.config import read_rules
from saeguard.monitor.errors import SaeguardError
from saeguard.monitor.watchlist import Watchlist, save
from saeguard.rules.loading.sources import is_pack

_LONGEST = 16_384
"""Tokens of a request that are recorded."""
_NUM_LINES = 20


class EngineError(SaeguardError):
    """The engine did not start, or ended."""


def capture(
    model: Model,
    data: Annotated[
        Path, typer.Option(help="The requests: JSON lines with id and messages or prompt.")
    ],
    rules: Annotated[
        list[str],
        typer.Option(help="Whose features are recorded: files, directories, pack:NAME."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A directory; one that has a part goes on.")
    ] = Path("captured"),
    vllm_args: VllmArgs = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Of an answer, where the request says nothing else.")
    ] = 256,
) -> None:
    """Run requests through a model offline, and record the scores of the watched features.

    Exit code: 0 all are recorded, 1 some only in part, 2 wrong usage, or the engine did not run.
    """
    check_vllm()
    items = read_items(data)
    rule_files = [item if is_pack(item) else str(Path(item).absolute()) for item in rules]
    watchlist = compile_watchlist(read_rules(rule_files))
    check_model(model, watchlist)
    shards = Shards(output)
    done = shards.done()
    waiting = [item for item in items if item.id not in done]
    console = Console(file=_own_stderr(), highlight=False, markup=False, soft_wrap=True)
    if done:
        console.print(f"{len(items) - len(waiting)} of {len(items)} requests are recorded already")
    partly: tuple[str, ...] = ()
    if waiting:
        work = Path(tempfile.mkdtemp(prefix="saeguard-capture-"))
        config = _write_config(work, rule_files, watchlist)
        console.print(f"starting the engine; its log is {work / 'engine.log'}")
        with _engine(model, vllm_args or [], config, work / "engine.log") as engine:
            session = Session(engine, work / "alerts.sqlite", shards, max_tokens)
            with Progress(console=console) as progress:
                task = progress.add_task("requests", total=len(waiting))
                captured = session.run(waiting, lambda n: progress.advance(task, n))
        partly = captured.partly
        shutil.rmtree(work)
    num_labels = shards.write_labels(data)
    print(f"{output}: {len(items)} requests recorded, {num_labels} of them with labels")
    for name in partly:
        print(f"  {name}: not all of its tokens were seen")
    raise typer.Exit(1 if partly else 0)


def _own_stderr() -> TextIO:
    """Ours also while what vLLM prints is led elsewhere."""
    return os.fdopen(os.dup(2), "w", buffering=1)


def _write_config(work: Path, rules: list[str], watchlist: Watchlist) -> Path:
    save(watchlist, work / "watch.safetensors")
    values = {
        "version": 1,
        "rules": rules,
        "watchlist": "watch.safetensors",
        "store": "alerts.sqlite",
        "reload": False,
        "fail": "closed",  # what is not seen is not to be taken for silence
        "record_share": 1.0,
        "record_tokens": _LONGEST,
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
    with log.open("wb") as file, _printing_to(file.fileno()):
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


@contextlib.contextmanager
def _printing_to(target: int) -> Iterator[None]:
    """Lead standard output and error of this process and its children there."""
    sys.stdout.flush()
    kept = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(target, number)
    try:
        yield
    finally:
        sys.stdout.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)


def _tail(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-_NUM_LINES:])
