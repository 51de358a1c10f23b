"""`saeguard discover`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from saeguard.integrations.discovery.corpus import Corpus
from saeguard.integrations.discovery.draft import Origin, draft, probe_path, read_name, rule_name
from saeguard.integrations.discovery.evidence import Evidence, Texts, evidence
from saeguard.integrations.discovery.prompts import read_prompts
from saeguard.integrations.discovery.report import as_json, as_text, causal_text
from saeguard.integrations.discovery.rescored import relabel, rescore
from saeguard.integrations.discovery.sae_features import Sae
from saeguard.integrations.discovery.search import Discovery, NothingFound, Settings
from saeguard.integrations.discovery.search import discover as search
from saeguard.integrations.probes.file import write_probe_file
from saeguard.monitor.cli import sharded
from saeguard.monitor.cli.labelled import DataOption, PositiveOption, recordings_in
from saeguard.monitor.cli.recordings import Format, FormatOption, console
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.shards import Runner
from saeguard.rules.phases import Phase


def discover(
    sae: Annotated[Path, typer.Argument(help="An SAE: its directory, or its file of weights.")],
    recordings: Annotated[
        list[str], typer.Argument(help="What `capture --activations` wrote: directories or files.")
    ],
    data: DataOption,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the rule draft is written.")
    ] = None,
    features: Annotated[int, typer.Option(min=1, help="Of the rule, at most.")] = 4,
    positive: PositiveOption = None,
    answer: Annotated[
        str | None, typer.Option(help="Which is meant, where labels answer for several rules.")
    ] = None,
    phase: Annotated[str, typer.Option(help="Whose tokens are looked at.")] = "answer",
    layer: Annotated[int | None, typer.Option(help="Of an SAE whose files do not say.")] = None,
    norm_scaling_factor: Annotated[
        float | None, typer.Option(help="Of an SAE that needs one and does not say.")
    ] = None,
    max_false_discoveries: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of what is called found.")
    ] = 0.05,
    max_false_alarms: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of negatives, at the threshold.")
    ] = 0.01,
    train: Annotated[
        str, typer.Option(help="Where labels have splits: the one to choose features on.")
    ] = "fit",
    folds: Annotated[int, typer.Option(min=2, help="Of groups, where labels have no splits.")] = 5,
    hold_out_sources: Annotated[
        bool, typer.Option(help="Judge on other sources, not only on other groups.")
    ] = False,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Train a linear probe as well, to compare. Takes minutes."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of folds, shuffles and random draws.")] = 0,
    verify: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Let this model (Hugging Face) answer --prompts with the features taken out or "
            "added: do they make it do what they show?",
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="For --verify: requests as for capture, with labels.")
    ] = None,
    format_: FormatOption = Format.TEXT,
    ray: sharded.RayOption = False,
    ray_workers: sharded.WorkersOption = 2,
    ray_address: sharded.AddressOption = None,
) -> None:
    """Find the features of an SAE that tell labelled positives from negatives, and draft a rule.

    Exit code: 0 some were found, 1 none is better than chance, 2 wrong usage or data.
    """
    if (verify is None) != (prompts is None):
        raise typer.BadParameter("--verify MODEL and --prompts FILE go together")
    asked = read_prompts(prompts) if prompts is not None else []
    runner = sharded.choose_runner(ray, ray_workers, ray_address)
    shards = [path for item in recordings for path in recordings_in(item)]
    if not shards:
        raise typer.BadParameter(f"{', '.join(recordings)}: no recordings there")
    settings = Settings(
        max_features=features,
        max_q=max_false_discoveries,
        max_false=max_false_alarms,
        train=train,
        num_folds=folds,
        hold_out_sources=hold_out_sources,
        with_probe=probe,
        seed=seed,
    )
    corpus = Corpus.read(shards, data, _phase(phase), positive or (), answer)
    source = Sae(sae, layer, norm_scaling_factor)
    try:
        found = _searched(corpus, source, settings, runner)
    except NothingFound as nothing:
        print(nothing)
        raise typer.Exit(1) from nothing
    texts = Texts(shards[0].parent / "tokenizer.json")
    evidences = evidence(corpus, found.block, found.splits[0].train, texts)
    effects = []
    if verify is not None:
        from saeguard.integrations.discovery import causal  # PyTorch takes seconds to import

        effects = causal.verify(corpus, found, source, verify, asked, seed)
    if format_ is Format.JSON:
        print(as_json(found, evidences, effects))
    else:
        for line in (*as_text(corpus, found, evidences, settings), *causal_text(effects)):
            console().print(line)
    if output is not None:
        origin = Origin(source, data, _sha256(data), tuple(shards), settings)
        recorded = _write(output, corpus, found, evidences, origin)
        if format_ is Format.TEXT:
            print(f"{output}: a draft; try it with what stands in {recorded}:")
            print(f"  saeguard backtest {output} {recorded} --data {recorded}/labels.jsonl "
                  "--split test")  # fmt: skip


def _phase(name: str) -> Phase:
    try:
        return Phase.parse(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _searched(corpus: Corpus, sae: Sae, settings: Settings, runner: Runner) -> Discovery:
    err = Console(stderr=True)
    with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("features", total=sae.shape()[0])
        return search(corpus, sae, settings, lambda n: progress.advance(task, n), runner)


def _write(
    output: Path, corpus: Corpus, found: Discovery, evidences: list[Evidence], origin: Origin
) -> Path:
    """The draft, and beside it its probe and recordings of what it reads."""
    name = read_name(rule_name(output), found)
    try:
        output.write_text(draft(output, corpus, found, evidences, origin))
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written: {error.strerror or error}") from error
    if len(found.features.features) > 1:
        probe = found.features.as_probe(found.block)
        write_probe_file(probe_path(output), found.block.hook_point, {name: probe})
    recorded = output.with_suffix(".recorded")
    rescore(corpus.shards, found.block, found.features, name, recorded)
    relabel(origin.data, corpus.ids, found.splits[0], recorded / "labels.jsonl")
    return recorded


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
