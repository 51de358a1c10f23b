"""Arize Phoenix: alerts reach it over OTLP, and what reviewers say there is brought back."""
