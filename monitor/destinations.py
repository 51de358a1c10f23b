"""The destinations of a configuration: found by their kind, given their options, named."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model

from saeguard.monitor.config import Config, locate
from saeguard.monitor.delivery import Destination
from saeguard.monitor.errors import ConfigError


def load_destinations(config: Config) -> dict[str, Destination]:
    """Each under its name, by which the store knows how far it has got.

    Raises:
        ConfigError: every fault as `file:line:column: message`.
    """
    loaded: dict[str, Destination] = {}
    faults = []
    for i, wanted in enumerate(config.destinations):
        try:
            destination = load_destination(wanted.kind, wanted.options, config.path.parent)
            name = wanted.name or destination.name
            if name in loaded:  # they would share a place in the queue, and each get half
                raise ConfigError(f"a second destination {name!r}", "give one of them a `name`")
            loaded[name] = destination
        except ConfigError as error:
            faults.append((("destinations", i), str(error)))
    if faults:
        raise ConfigError(locate(config.path, faults))
    return loaded


def load_destination(
    kind: str, options: Mapping[str, Any], directory: Path = Path()
) -> Destination:
    """The installed destination of this kind.

    Args:
        options: arguments of its constructor, as YAML has them.
        directory: what relative paths among them are relative to.

    Raises:
        ConfigError: there is none, it does not import, or it does not take these options.
    """
    known = {entry.name: entry for entry in entry_points(group="saeguard.destinations")}
    if kind not in known:
        raise ConfigError(f"no destination {kind!r}", f"known: {', '.join(sorted(known))}")
    try:
        factory = known[kind].load()
        arguments = _validated(factory, options)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"destination {kind!r}: {error}") from error
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise ConfigError(f"destination {kind!r}: {'; '.join(faults)}") from error
    for name, value in arguments.items():
        if isinstance(value, Path):
            arguments[name] = directory / value
    return cast(Destination, factory(**arguments))


def _validated(factory: Callable[..., object], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as its annotations want them: a wrong one that came to light only when alerts
    are delivered would refuse every one of them.

    Raises:
        ValidationError: they are others.
    """
    function = factory.__init__ if inspect.isclass(factory) else factory
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(factory).parameters.items()
    }
    model = create_model("Options", __config__=ConfigDict(extra="forbid"), **fields)
    validated = model.model_validate(dict(options))
    return {name: getattr(validated, name) for name in validated.model_fields_set}
