"""What watching costs on a GPU: throughput of vLLM with saeguard and without, in turns, at several
batch sizes, with CUDA graphs and torch.compile.

The model has the shape of a well-known one and random weights, so that nothing is downloaded;
random probes are watched at three of its layers. Writes `results/<machine>.json`. On a machine
without a GPU, `--shape tiny` tries the script itself.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from overhead import ORGANISM, Load, Pair, compare, ratio
from safetensors.numpy import save_file

RESULTS = Path(__file__).parent / "results"
VOCABULARY = 32_000
SHAPES = {
    "tiny": (64, 256, 4, 2, 1),
    "1b": (2048, 8192, 16, 32, 8),
    "8b": (4096, 14336, 32, 32, 8),
}
"""Of Llama 3: width, width of the MLP, layers, heads, heads of keys and values."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32, 256], metavar="PROMPTS")
    parser.add_argument("--tokens", type=int, default=256, help="generated for each prompt")
    parser.add_argument("--features", type=int, default=64, help="watched at each of three layers")
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    machine = machine_name()
    print(f"{machine}: starting two engines of shape {arguments.shape}", flush=True)
    with tempfile.TemporaryDirectory(prefix="saeguard-overhead-") as work:
        model = write_model(Path(work) / "model", arguments.shape)
        rules = write_rules(Path(work), arguments.shape, arguments.features)
        # Both engines are on one GPU.
        engine = {"max_model_len": 1024, "load_format": "dummy", "gpu_memory_utilization": 0.42}
        load = Load(str(model), arguments.tokens, engine)
        measured = compare(Path(work), load, rules, arguments.batch, arguments.rounds)
    runs = [
        summary(pairs, num_prompts, arguments.tokens)
        for pairs, num_prompts in zip(measured, arguments.batch, strict=True)
    ]
    for run in runs:
        print(json.dumps(run))
    path = RESULTS / f"{re.sub('[^a-z0-9]+', '-', machine.lower()).strip('-')}.json"
    path.write_text(json.dumps({**setting(machine, arguments), "runs": runs}, indent=2) + "\n")
    print(f"wrote {path}")


def machine_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()


def setting(machine: str, arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "machine": machine,
        "date": time.strftime("%Y-%m-%d"),
        "torch": version("torch"),
        "vllm": vllm_version(),
        "shape": arguments.shape,
        "features": 3 * arguments.features,
        "rounds": arguments.rounds,
    }


def vllm_version() -> str:
    import vllm

    return str(vllm.__version__)


def write_model(directory: Path, shape: str) -> Path:
    """A configuration, for which vLLM makes weights up, and a tokenizer."""
    width, mlp_width, num_layers, num_heads, num_kv_heads = SHAPES[shape]
    directory.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "vocab_size": VOCABULARY, "hidden_size": width, "intermediate_size": mlp_width,
        "num_hidden_layers": num_layers, "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads, "head_dim": width // num_heads,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
        "bos_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": False,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    for file in (ORGANISM / "artifacts" / "model").glob("*token*"):
        shutil.copy(file, directory)
    return directory


def write_rules(directory: Path, shape: str, num_features: int) -> Path:
    """Random probes after an early layer, the middle one and the last, and rules that read each of
    them and never fire.
    """
    width, _, num_layers, _, _ = SHAPES[shape]
    rng = np.random.default_rng(0)
    features, rules = {}, []
    for layer in (num_layers // 4, num_layers // 2, num_layers - 1):
        names = [f"p{layer}_{i}" for i in range(num_features)]
        weight = rng.standard_normal((num_features, width)).astype(np.float32)
        tensors = {"weight": weight, "bias": np.zeros(num_features, np.float32)}
        header = {"hook_name": f"blocks.{layer}.hook_resid_post", "names": names}
        path = directory / f"probes_{layer}.safetensors"
        save_file(tensors, path, metadata={"saeguard_probe": json.dumps(header)})
        features |= {name: {"probe": {"path": path.name}, "name": name} for name in names}
        rules += [_rule(len(rules) + i, name) for i, name in enumerate(names)]
    file = directory / "rules.yaml"
    header = {"version": 1, "ruleset": {"name": "overhead", "version": "1"}}
    file.write_text(yaml.safe_dump({**header, "features": features, "rules": rules}))
    return file


def _rule(number: int, feature: str) -> dict[str, Any]:
    return {
        "id": f"00000000-0000-4000-8000-{number:012}", "name": feature, "title": feature,
        "status": "test", "severity": "info", "condition": "high", "message": "{rule.title}",
        "signals": {
            "high": {"feature": feature, "agg": "mean", "window": "16 tokens", "gt": 1e6}
        },
        "tags": ["site.benchmark"], "falsepositives": [],
    }  # fmt: skip


def summary(pairs: list[Pair], num_prompts: int, num_tokens: int) -> dict[str, Any]:
    ratios = sorted(ratio(pair) for pair in pairs)
    plain, armed = (
        round(num_prompts * num_tokens / statistics.median(pair[i]["wall_s"] for pair in pairs))
        for i in (0, 1)
    )
    return {
        "prompts": num_prompts,
        "tokens_per_prompt": num_tokens,
        "plain_tokens_per_s": plain,
        "watched_tokens_per_s": armed,
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_min": round(ratios[0], 4),
        "ratio_max": round(ratios[-1], 4),
    }


if __name__ == "__main__":
    main()
