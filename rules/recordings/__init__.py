"""Requests whose scores were recorded: their files, and rules run over them."""
