"""Secrets of the configuration, which names where they are and never holds them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from saeguard.monitor.errors import ConfigError


class FromEnv(BaseModel):
    """What is in an environment variable."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    env: str = Field(min_length=1)


Headers = Mapping[str, str | FromEnv]
"""Of requests to a server: `{Authorization: {env: TOKEN}}`."""


def read_secret(env: str | None, file: str | Path | None) -> bytes | None:
    """What is in this environment variable, or in this file; white space around it does not count.

    Raises:
        ConfigError: both are named, or there is nothing.
    """
    if env and file:
        raise ConfigError(f"${env} and the file {file} are two secrets", "keep one of them")
    if env:
        text = os.environ.get(env, "")
    elif file:
        try:
            text = Path(file).read_text()
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"the secret in {file} cannot be read: {error}") from error
    else:
        return None
    if not text.strip():
        raise ConfigError(f"the secret in {env or file} is empty")
    return text.strip().encode(errors="surrogateescape")
