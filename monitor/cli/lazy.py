"""Commands whose modules are imported only when they run or their help is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from saeguard.monitor.errors import ConfigError

Target = Callable[..., Any] | typer.Typer
"""A function with typer's annotations, or an app with commands of its own."""


class LazyCommand(TyperCommand):
    """Stands for a command until it is called."""

    def __init__(self, name: str, summary: str, load: Callable[[], Target]) -> None:
        super().__init__(name, short_help=summary)
        self._load = load

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        return self._real().make_context(*args, **kwargs)

    def _real(self) -> Any:
        try:
            target = self._load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"`saeguard {self.name}` cannot be loaded: {error}",
                "it may need an extra, such as pip install 'saeguard[vllm]'",
            ) from error
        return typer.main.get_command(_app(self.name, target))


class LazyGroup(TyperGroup):
    """Finds commands in `own`, then among the installed entry points."""

    own: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Name -> (`module:attribute`, summary)."""
    summaries: ClassVar[Mapping[str, str]] = {}
    """Of entry points, which cannot tell theirs without being imported."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*self.own, *sorted(_entry_points().keys() - self.own.keys())]

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:
        if cmd_name in self.own:
            target, summary = self.own[cmd_name]
            return LazyCommand(cmd_name, summary, lambda: _import(target))
        if entry := _entry_points().get(cmd_name):
            return LazyCommand(cmd_name, self.summaries.get(cmd_name, ""), entry.load)
        return None


def _app(name: str | None, target: Target) -> typer.Typer:
    if isinstance(target, typer.Typer):
        return target
    app = typer.Typer(add_completion=False)
    app.command(name)(target)
    return app


def _import(target: str) -> Target:
    module, _, attribute = target.partition(":")
    found: Target = getattr(importlib.import_module(module), attribute)
    return found


def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="saeguard.commands")}
