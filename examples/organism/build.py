"""Build the organism from seeds, stage by stage; a finished stage is not done again.

python examples/organism/build.py --out examples/organism/artifacts --work DIR
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from corpus import make_corpus, make_tokenizer
from train_model import TrainConfig, train

NUM_DOCUMENTS = 100_000
SEEDS = [0, 1, 2]
SAE_LAYERS = [1, 2, 3, 4]
# The allocator's settings keep freed memory for the next step; they are read when a process starts.
_ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "268435456",
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
}
_START = time.monotonic()


def stage(work: Path, name: str, run: Callable[[], object]) -> object:
    """Run a stage once and keep its answer in `work/<name>.done`."""
    mark = work / f"{name}.done"
    if mark.exists():
        print(f"[{name}] already done")
        return json.loads(mark.read_text())["answer"]
    start = time.monotonic()
    print(f"[{name}] starts {start - _START:.0f} s into the build")
    answer = run()
    spent_s = round(time.monotonic() - start)
    mark.write_text(json.dumps({"spent_s": spent_s, "answer": answer}, default=str))
    print(f"[{name}] done in {spent_s} s")
    return answer


def in_environment() -> None:
    """Start this script again with `_ENVIRONMENT`, unless it has it."""
    if not _ENVIRONMENT.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **_ENVIRONMENT})


def train_saes(work: Path, layers: list[int]) -> dict[int, dict[str, float]]:
    """Train an SAE of each layer of `work/model`, on the text of `work/train.npz`."""
    from train_sae import SaeConfig, activations, train_sae

    config = SaeConfig()
    rows = activations(work, layers, config.num_tokens)
    reports = {}
    for layer in layers:
        reports[layer] = train_sae(rows.pop(layer), layer, work / f"sae{layer}", config)
        print(f"sae: {reports[layer]}")
    return reports


def _rollouts(work: Path, splits: tuple[str, ...]) -> None:
    from rollouts import roll_out

    plan = [(split, seed) for seed in SEEDS for split in splits]
    roll_out(work / "model", work / "rollouts", plan)


def _evaluate(work: Path, out: Path, config: TrainConfig) -> None:
    from evaluate import evaluate
    from export import digests

    numbers = evaluate(work, out, SEEDS)
    stages = {p.stem: json.loads(p.read_text())["spent_s"] for p in sorted(work.glob("*.done"))}
    manifest = {
        "model": json.loads((work / "train.done").read_text())["answer"],
        "architecture": json.loads((out / "model" / "config.json").read_text()),
        "train": {name: getattr(config, name) for name in TrainConfig.__slots__},
        "num_documents": NUM_DOCUMENTS,
        "data_seeds": SEEDS,
        "selection": json.loads((work / "selection.json").read_text()),
        "measured": numbers,
        "stage_s": stages,
        "sha256": digests(out),
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1, default=float) + "\n")


def main() -> None:
    """Read the command line and run the stages."""
    in_environment()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "saeguard-organism")
    parser.add_argument("--steps", type=int, default=TrainConfig().num_steps)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    work, out = args.work.resolve(), args.out.resolve()
    work.mkdir(parents=True, exist_ok=True)
    config = TrainConfig(num_steps=args.steps)
    stage(work, "tokenizer", lambda: len(make_tokenizer(work / "tokenizer")))
    stage(work, "data", lambda: make_corpus(work, NUM_DOCUMENTS))
    stage(work, "train", lambda: train(work, config))
    stage(work, "rollouts", lambda: _rollouts(work, ("fit",)))
    stage(work, "sae", lambda: train_saes(work, SAE_LAYERS))

    from export import export
    from select_features import select
    from tables import TEST_SPLITS

    stage(work, "select", lambda: select(work, SAE_LAYERS) and None)
    stage(work, "export", lambda: export(work, out))
    stage(work, "tests", lambda: _rollouts(work, TEST_SPLITS))
    stage(work, "evaluate", lambda: _evaluate(work, out, config))
    print(f"built in {time.monotonic() - _START:.0f} s, see {args.out}/report.md")


if __name__ == "__main__":
    main()
