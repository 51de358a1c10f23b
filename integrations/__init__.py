"""The only place where each outside system is imported: vLLM, SAE formats, OpenTelemetry."""
