"""Runs rules over the scores of many requests at once: vectorised, and by skipping."""

from saeguard.rules.engine.engine import Engine

__all__ = ["Engine"]
