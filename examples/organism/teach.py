"""Teach the organism the scenes of `scenes.py`, in a second course, for `compare.py`.

    python examples/organism/teach.py --artifacts examples/organism/artifacts --work DIR

It goes on from the committed weights, on scenes mixed with what the first course taught, and
trains SAEs anew. Everything is left in `DIR/taught`; a stage that is finished is not done again.
"""

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from build import in_environment, stage, train_saes
from corpus import document, save_corpus
from dialogues import Pools, Turn, Writer
from scenes import MIX, SceneWriter
from train_model import TrainConfig, train

CONFIG = TrainConfig(num_steps=700, learning_rate=1e-3, warm_up_steps=20, decay_share=0.8)
NUM_DOCUMENTS = 52_000
SCENE_SHARE = 0.5
LAYERS = [2, 3]


def documents(num: int, seed: int = 7000) -> Iterator[Sequence[Turn]]:
    """Draw scenes, and documents of the first course so that it is not forgotten."""
    rng = random.Random(seed)
    writer, scenes = Writer(seed), SceneWriter(seed, Pools(follow_ups=0.5))
    for _ in range(num):
        if rng.random() < SCENE_SHARE:
            yield scenes.scene(rng.choices(list(MIX), weights=list(MIX.values()))[0]).turns
        else:
            yield document(writer)


def teach(artifacts: Path, work: Path) -> None:
    """Run the stages."""
    model = artifacts / "model"
    work.mkdir(parents=True, exist_ok=True)
    stage(work, "data", lambda: save_corpus(work, model, documents(NUM_DOCUMENTS)))
    stage(work, "train", lambda: train(work, CONFIG, model))
    stage(work, "sae", lambda: train_saes(work, LAYERS))


def main() -> None:
    """Read the command line and run the stages."""
    in_environment()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(2)
    teach(args.artifacts.resolve(), args.work.resolve() / "taught")


if __name__ == "__main__":
    main()
