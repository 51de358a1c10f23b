"""Probes as features: their files, and how published directions become some."""

from saeguard.integrations.probes.file import (
    Angle,
    Attention,
    Linear,
    Mlp,
    MultiMax,
    Probe,
    ProbeFile,
    Subspace,
    read_probe_file,
    write_probe_file,
)
from saeguard.integrations.probes.rows import read_features

__all__ = [
    "Angle",
    "Attention",
    "Linear",
    "Mlp",
    "MultiMax",
    "Probe",
    "ProbeFile",
    "Subspace",
    "read_features",
    "read_probe_file",
    "write_probe_file",
]
