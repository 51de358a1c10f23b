"""`saeguard capture`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.progress import Progress

from saeguard.integrations.vllm.capture.bounds import LONGEST, Bounds, Disk, DiskFullError
from saeguard.integrations.vllm.capture.data import read_items
from saeguard.integrations.vllm.capture.engine import LOG, Setup
from saeguard.integrations.vllm.capture.parts import cut
from saeguard.integrations.vllm.capture.session import Captured
from saeguard.integrations.vllm.capture.shards import Shards
from saeguard.integrations.vllm.capture.watched import watched
from saeguard.integrations.vllm.options import Model, VllmArgs
from saeguard.integrations.vllm.preflight import check_model, check_vllm
from saeguard.monitor.cli import sharded
from saeguard.monitor.errors import ConfigError, SaeguardError
from saeguard.rules.quantity import quantity


@dataclass(slots=True)
class _Outcome:
    """How it went."""

    num_requests: int = 0
    partly: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    refusal: DiskFullError | None = None
    """Why the others were not recorded."""


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
    ray: sharded.RayOption = False,
    ray_workers: sharded.WorkersOption = 2,
    ray_address: sharded.AddressOption = None,
    ray_gpus: sharded.GpusOption = 0.0,
) -> None:
    """Run requests through a model offline, and record the scores of the watched features, or
    activations.

    Exit code: 0 all are recorded, 1 not all, or some only in part, 2 wrong usage, or an engine did
    not run.
    """
    check_vllm()
    if not rules and not activations:
        raise ConfigError("give --rules or --activations, or both", "see saeguard capture --help")
    runner = sharded.choose_runner(ray, ray_workers, ray_address, ray_gpus)
    items = read_items(data)
    watch = watched(rules or [], activations or [], model)
    work = Path(tempfile.mkdtemp(prefix="saeguard-capture-"))
    try:
        check_model(model, watch.compile(work))
        shards = Shards(output)
        done = shards.done(watch.columns)
    except SaeguardError:
        shutil.rmtree(work)
        raise
    waiting = [item for item in items if item.id not in done]
    console = Console(file=_own_stderr(), highlight=False, markup=False, soft_wrap=True)
    if done:
        console.print(f"{len(items) - len(waiting)} of {len(items)} requests are recorded already")
    outcome = _Outcome()
    if waiting:
        bounds, disk = Bounds(len(watch.columns)), Disk(output, int(max_disk_gib * 2**30))
        if bounds.record_tokens < LONGEST:
            console.print(f"of each request the last {bounds.record_tokens:,} tokens are recorded")
        # Prefix caching would have the monitor keep activations of what is in vLLM's cache.
        arguments = [*(["--no-enable-prefix-caching"] if activations else []), *(vllm_args or [])]
        setup = Setup(model, tuple(arguments), watch, max_tokens, work)
        if ray:
            console.print(f"starting engines; their logs are {work}/*/{LOG}")
        else:
            console.print(f"starting the engine; its log is {setup.log}")
        parts = cut(waiting, bounds, max_tokens)
        with Progress(console=console) as progress, closing(runner(setup.start, parts)) as results:
            task = progress.add_task("requests", total=len(waiting))
            outcome = _record(results, shards, disk, lambda n: progress.advance(task, n))
    shutil.rmtree(work, ignore_errors=True)  # monitors of Ray's workers may still be ending there
    num_labels = shards.write_labels(data)
    num_done = len(items) - len(waiting) + outcome.num_requests
    print(f"{output}: {quantity(num_done, 'request')} recorded, {quantity(num_labels, 'label')}")
    for name in outcome.partly:
        print(f"  {name}: not all of its tokens were seen")
    for name in outcome.failed:
        print(f"  {name}: ended by an error, and not recorded; the same command runs it again")
    if outcome.failed:
        print(f"  why is in {output / LOG}")
    if outcome.refusal is not None:
        print(f"  {len(items) - num_done} of {len(items)} were not run: {outcome.refusal}")
    raise typer.Exit(1 if outcome.partly or outcome.failed or outcome.refusal else 0)


def _record(
    results: Iterable[Captured], shards: Shards, disk: Disk, progress: Callable[[int], None]
) -> _Outcome:
    """Write what comes, as long as the disk has room for it.

    Raises:
        ConfigError: the directory cannot be written.
    """
    outcome = _Outcome()
    for captured in results:
        try:
            disk.check(shards.num_bytes, captured.num_bytes)
        except DiskFullError as error:
            outcome.refusal = error
            break
        for name, content in captured.files.items():
            shards.keep(name, content)
        if captured.requests:
            shards.add(captured.requests, captured.answers)
        outcome.num_requests += len(captured.requests)
        outcome.partly += captured.partly
        outcome.failed += captured.failed
        progress(len(captured.requests) + len(captured.failed))
    return outcome


def _own_stderr() -> TextIO:
    """Ours also while what vLLM prints is led elsewhere."""
    return os.fdopen(os.dup(2), "w", buffering=1)
