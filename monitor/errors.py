"""The errors that saeguard shows to people.

SaeguardError
├── ConfigError        saeguard.yaml is missing or wrong
├── CompileError       a feature named in the rules cannot be turned into a watched row
├── WatchlistError     a compiled watchlist cannot be used (monitor/watchlist.py)
├── UnsupportedError   this model or engine setting cannot be monitored
├── StoreError         the alert store cannot be opened or written (monitor/store.py)
├── NoRuleTest         an alert cannot be made a rule test (monitor/verdict_tests.py)
└── DeliveryError      a destination did not take a batch (monitor/delivery.py)
"""

from __future__ import annotations


class SaeguardError(Exception):
    """What is wrong and where; `remedy` says what to do about it."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class ConfigError(SaeguardError):
    """saeguard.yaml is missing or wrong."""


class CompileError(SaeguardError):
    """A feature named in the rules cannot be turned into a watched row."""


class UnsupportedError(SaeguardError):
    """This model or engine setting cannot be monitored."""
