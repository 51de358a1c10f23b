"""Compile features of an SAE of 131,072 features of 4,096 numbers: time and memory.

    python benchmarks/compile_large.py

The SAE is random and made on the spot: 4.3 GB in fp32, in a temporary folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

D_MODEL, D_SAE, NUM_FEATURES = 4096, 131_072, 64
SHAPES = {
    "W_enc": (D_MODEL, D_SAE),
    "W_dec": (D_SAE, D_MODEL),
    "b_enc": (D_SAE,),
    "b_dec": (D_MODEL,),
    "threshold": (D_SAE,),
}
CONFIG = {
    "architecture": "jumprelu",
    "d_in": D_MODEL,
    "d_sae": D_SAE,
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "metadata": {"hook_name": "blocks.20.hook_resid_post", "sae_lens_version": "6.54.12"},
}


def write_sae(folder: Path) -> Path:
    """In sae-lens' layout, written block by block."""
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps(CONFIG))
    header, offset = {}, 0
    for name, shape in SHAPES.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    block = np.random.default_rng(0).standard_normal(2**22).astype(np.float32).tobytes()
    with (folder / "sae_weights.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while offset > 0:
            offset -= file.write(block[: min(offset, len(block))])
    return folder


def write_rules(path: Path, units: str) -> Path:
    """64 features, all over the SAE."""
    picked = range(0, D_SAE, D_SAE // NUM_FEATURES)
    features = {
        f"f{i}": {"sae": {"path": "sae"}, "index": index, "units": units}
        for i, index in enumerate(picked)
    }
    rule = {
        "id": "7d1c0c1e-5a0a-4b7c-8a5f-1c1f6f0c9b11",
        "name": "any",
        "title": "Any of them",
        "status": "test",
        "severity": "low",
        "signals": {f"s{i}": {"feature": f"f{i}", "agg": "value", "gte": 1} for i in range(64)},
        "condition": "any of s*",
        "message": "{rule.title}",
        "tags": ["site.benchmark"],
        "falsepositives": [],
    }
    header = {"version": 1, "ruleset": {"name": "benchmark", "version": "1"}}
    path.write_text(json.dumps({**header, "features": features, "rules": [rule]}))
    return path


def measure(command: list[str]) -> tuple[float, float, float]:
    """Seconds, those of them that a core worked for it, and the most memory that it had, in MB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3


@contextmanager
def made() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        write_sae(Path(folder) / "sae")
        yield Path(folder)


def main() -> None:
    with made() as folder:
        saeguard = [str(Path(sys.executable).with_name("saeguard")), "compile"]
        for units in ("raw", "neuronpedia"):
            rules = write_rules(folder / "rules.yaml", units)
            took_s, cpu_s, megabytes = measure([*saeguard, str(rules), "-o", str(folder / "w")])
            print(f"units {units}: {took_s:.1f} s, {cpu_s:.1f} s of a core, {megabytes:.0f} MB")


if __name__ == "__main__":
    main()
