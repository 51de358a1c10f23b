"""Probes trained on captured activations, and what they are worth against features of SAEs."""
