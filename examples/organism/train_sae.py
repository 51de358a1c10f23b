"""Train an SAE with sae-lens on the organism's residual stream, and fold its input scale in."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rollouts import load_model
from sae_lens import SAE, LoggingConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from train_model import Corpus

MODEL_NAME = "saeguard-organism"


@dataclass(frozen=True, slots=True)
class SaeConfig:
    """Size of the SAE and length of its training."""

    d_sae: int = 1024
    k: int = 24
    num_tokens: int = 600_000
    num_passes: int = 1
    batch_tokens: int = 1024
    learning_rate: float = 1e-3
    seed: int = 0
    l0_tolerance: float = 2.0


@torch.no_grad()
def activations(
    work: Path, layers: list[int], num_tokens: int, seed: int = 5
) -> dict[int, np.ndarray]:
    """Return fp32 [num_tokens, d_model] per layer over the training text, position 0 left out.

    Position 0 is an attention sink; its norm has nothing to do with the text.
    """
    model, tokenizer = load_model(work / "model")
    corpus = Corpus.load(work / "train.npz")
    d_model = model.config.hidden_size
    out = {layer: np.empty((num_tokens, d_model), np.float32) for layer in layers}
    filled = 0
    for documents in corpus.batches(seed):
        ids, _ = corpus.padded(documents, tokenizer.pad_token_id)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.model(ids, use_cache=False, output_hidden_states=True).hidden_states
        real = ids != tokenizer.pad_token_id
        real[:, 0] = False
        num = min(int(real.sum()), num_tokens - filled)
        for layer in layers:
            out[layer][filled : filled + num] = hidden[layer + 1].float()[real][:num].numpy()
        filled += num
        if filled == num_tokens:
            return out
    raise AssertionError("batches() never ends")


def _shuffled(rows: np.ndarray, size: int, seed: int) -> Iterator[torch.Tensor]:
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(rows))
        for start in range(0, len(rows) - size + 1, size):
            yield torch.from_numpy(rows[np.sort(order[start : start + size])])


def hook_name(layer: int) -> str:
    """Name the residual stream leaving decoder layer `layer`, as sae-lens does."""
    return f"blocks.{layer}.hook_resid_post"


@torch.no_grad()
def _fold_scale(folder: Path, scale: float) -> None:
    """Rewrite an SAE trained on `scale * x` so that it encodes and decodes x."""
    sae = SAE.load_from_disk(str(folder))
    sae.W_enc *= scale
    sae.W_dec /= scale
    sae.b_dec /= scale
    sae.save_model(str(folder))


@torch.no_grad()
def quality(folder: Path, rows: np.ndarray) -> dict[str, float]:
    """Return inference L0, explained variance and dead features on rows [tokens, d_model]."""
    sae, x = SAE.load_from_disk(str(folder)), torch.from_numpy(rows)
    features = sae.encode(x)
    rest = ((x - sae.decode(features)) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    return {
        "l0": float((features > 0).sum(1).float().mean()),
        "explained_variance": 1 - float(rest),
        "num_dead": int((features > 0).any(0).logical_not().sum()),
    }


def train_sae(rows: np.ndarray, layer: int, out: Path, config: SaeConfig) -> dict[str, float]:
    """Train a BatchTopK SAE on rows [tokens, d_model] and save it as JumpReLU for raw input.

    Raises:
        AssertionError: If the L0 of the saved SAE is not the one it was trained for, which is
            what a threshold that lags behind or was not rescaled looks like.
    """
    torch.manual_seed(config.seed)
    norm = float(np.linalg.norm(rows[:20_000], axis=1).mean())
    scale = rows.shape[1] ** 0.5 / norm
    sae = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(
            d_in=rows.shape[1],
            d_sae=config.d_sae,
            k=config.k,
            device="cpu",
            dtype="float32",
            normalize_activations="none",
            apply_b_dec_to_input=True,
            topk_threshold_lr=0.05,
        )
    )
    sae.cfg.metadata.model_name = MODEL_NAME
    sae.cfg.metadata.hook_name = hook_name(layer)
    with torch.no_grad():
        sae.b_dec.copy_(torch.from_numpy(rows[:50_000].mean(0) * scale))
    total = len(rows) * config.num_passes
    trainer = SAETrainerConfig(
        total_training_samples=total,
        train_batch_size_samples=config.batch_tokens,
        lr=config.learning_rate,
        lr_end=config.learning_rate / 10,
        lr_warm_up_steps=20,
        lr_decay_steps=total // config.batch_tokens // 3,
        dead_feature_window=200,
        feature_sampling_window=300,
        logger=LoggingConfig(log_to_wandb=False),
    )
    scaled = (b * scale for b in _shuffled(rows, config.batch_tokens, config.seed))
    SAETrainer(trainer, sae, scaled).fit()
    sae.save_inference_model(str(out))
    _fold_scale(out, scale)
    report = {"layer": layer, "mean_norm": norm, **quality(out, rows[:40_000])}
    assert abs(report["l0"] - config.k) < config.l0_tolerance, report
    (out / "report.json").write_text(json.dumps(report))
    return report
