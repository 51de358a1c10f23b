"""What a model did while something was done to it."""

from __future__ import annotations

from dataclasses import dataclass

from saeguard.rules.calibration.intervals import Rate


@dataclass(frozen=True, slots=True)
class Effect:
    """What the model did."""

    name: str
    on_positives: bool
    """Whether on the prompts where the harm is to be expected, or on the others."""
    harmful: tuple[Rate, ...]
    """Share of the answers that are lies; one for each random draw, else one. Empty where prompts
    do not say what is true and what a lie."""
    changed: tuple[Rate, ...]
    """Share of the answers that are not what the model answers untouched."""
    surprise: tuple[float, ...]
    """By how many nats per token the given responses, or else the model's own untouched answers,
    become less likely; in the mean."""
