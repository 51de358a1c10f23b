"""The command line."""

from saeguard.monitor.cli.app import main

__all__ = ["main"]
