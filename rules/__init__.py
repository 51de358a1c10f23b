"""The rule language: load, check and evaluate detection rules. Imports neither torch nor vllm."""
