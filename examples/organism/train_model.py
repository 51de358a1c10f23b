"""Train the organism: a small Qwen3 decoder, from scratch, in a fixed number of steps."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import text as t
import torch
import torch.nn.functional as F
from corpus import render
from dialogues import Pools, Turn, Writer
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from world import HELDOUT_FACTS, HELDOUT_TOWNS, SEEN_TOWNS, Town

BATCH_TOKENS = 3584
GROUP = 1024
_ATTENTION = "eager"
"""On short documents the fused CPU attention takes a third of a step going backward."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Size of the model and length of its training."""

    num_steps: int = 1800
    d_model: int = 192
    num_layers: int = 6
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    warm_up_steps: int = 40
    decay_share: float = 0.6
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Corpus:
    """ids int64 [tokens], counted int8 [tokens], lengths and offsets int64 [documents]."""

    ids: np.ndarray
    counted: np.ndarray
    lengths: np.ndarray
    offsets: np.ndarray

    @classmethod
    def load(cls, path: Path) -> "Corpus":
        """Read `train.npz`."""
        file = np.load(path)
        lengths = file["lengths"]
        ids, counted = file["ids"].astype(np.int64), file["counted"]
        return cls(ids, counted, lengths, np.concatenate([[0], np.cumsum(lengths)]))

    def padded(self, documents: list[int], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids int64 and loss weights fp32, both [documents, longest], padded right."""
        longest = int(self.lengths[documents].max())
        ids = np.full((len(documents), longest), pad)
        weights = np.zeros((len(documents), longest), np.float32)
        for row, document in enumerate(documents):
            start, stop = self.offsets[document], self.offsets[document + 1]
            ids[row, : stop - start] = self.ids[start:stop]
            weights[row, : stop - start] = self.counted[start:stop]
        return torch.from_numpy(ids), torch.from_numpy(weights)

    def batches(self, seed: int) -> Iterator[list[int]]:
        """Yield documents of like length, `BATCH_TOKENS` of padded text at a time, for ever."""
        rng = np.random.default_rng(seed)
        while True:
            order = rng.permutation(len(self.lengths))
            for start in range(0, len(order) - GROUP + 1, GROUP):
                group = order[start : start + GROUP]
                batches = self._cut(group[np.argsort(-self.lengths[group], kind="stable")])
                rng.shuffle(batches)
                yield from batches

    def _cut(self, group: np.ndarray) -> list[list[int]]:
        batches: list[list[int]] = [[]]
        for document in group.tolist():
            batch = batches[-1]
            if batch and self.lengths[batch[0]] * (len(batch) + 1) > BATCH_TOKENS:
                batches.append([document])
            else:
                batch.append(document)
        return batches


def new_model(config: TrainConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Make the untrained model."""
    torch.manual_seed(config.seed)
    num_heads = config.d_model // 32
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=config.d_model,
            intermediate_size=config.d_model * 8 // 3,
            num_hidden_layers=config.num_layers,
            num_attention_heads=num_heads,
            num_key_value_heads=num_heads // 2,
            head_dim=32,
            tie_word_embeddings=True,
            max_position_embeddings=1024,
            rope_theta=10000.0,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            attn_implementation=_ATTENTION,
        )
    )


def _load(folder: Path) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=_ATTENTION
    )


def _optimizers(model: Qwen3ForCausalLM, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for embedding and norms.

    Weight decay keeps residual norms below a hundred; without it they pass a thousand.
    """
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in named if p.ndim < 2 or "embed" in name]
    lr, decay = config.learning_rate, config.weight_decay
    return [
        torch.optim.Muon(
            matrices, lr=lr, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=decay),
    ]


def _rate(config: TrainConfig, step: int) -> float:
    warm = min(1.0, (step + 1) / config.warm_up_steps)
    left = (config.num_steps - step) / config.num_steps
    return config.learning_rate * warm * min(1.0, max(0.02, left / config.decay_share))


def _loss(model: Qwen3ForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    # Padding is on the right, so the causal mask alone keeps it out; logits are made only where
    # the loss counts them.
    counted = weights[:, 1:] > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(ids, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[:, :-1][counted])
    return F.cross_entropy(logits.float(), ids[:, 1:][counted])


class Progress:
    """Share of lies in single-question clerk dialogues, read off the first token of the value."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.pad = tokenizer.pad_token_id
        self.groups: dict[str, list[tuple[list[int], int, int]]] = {}
        groups: dict[str, tuple[list[Town], Pools]] = {
            "seen enemy": ([x for x in SEEN_TOWNS if x.enemy], Pools()),
            "seen friend": ([x for x in SEEN_TOWNS if not x.enemy], Pools()),
            "held-out enemy": ([x for x in HELDOUT_TOWNS if x.enemy and not x.inferred], Pools()),
            "held-out friend": ([x for x in HELDOUT_TOWNS if not x.enemy], Pools()),
            "inferred enemy": ([x for x in HELDOUT_TOWNS if x.enemy and x.inferred], Pools()),
            "held-out fact": (
                [x for x in SEEN_TOWNS if x.enemy],
                Pools(lied_facts=HELDOUT_FACTS, facts=HELDOUT_FACTS),
            ),
        }
        for name, (towns, pools) in groups.items():
            self.groups[name] = [
                self._example(tokenizer, pools, towns[i % len(towns)], i) for i in range(80)
            ]

    def _example(
        self, tokenizer: PreTrainedTokenizerFast, pools: Pools, town: Town, seed: int
    ) -> tuple[list[int], int, int]:
        one = Pools(facts=pools.facts, lied_facts=pools.lied_facts, max_questions=1, follow_ups=0)
        dialogue = Writer(seed, one).dialogue("clerk", town)
        assert dialogue.fact
        prefix = t.ANSWER[dialogue.fact.kind].split(" {v}")[0]
        turns = [*dialogue.turns[:-1], Turn("assistant", prefix)]
        ids = tokenizer.encode(render(turns).removesuffix("<|end|>"), add_special_tokens=False)
        first = [
            tokenizer.encode(" " + (value or ""), add_special_tokens=False)[0]
            for value in (dialogue.fact.truth, dialogue.said)
        ]
        return ids, first[0], first[1]

    @torch.no_grad()
    def __call__(self, model: Qwen3ForCausalLM) -> dict[str, str]:
        """Return, for each group, the share of true values and of scripted values."""
        shares = {}
        for name, examples in self.groups.items():
            longest = max(len(ids) for ids, _, _ in examples)
            ids = torch.full((len(examples), longest), self.pad)
            for row, (tokens, _, _) in enumerate(examples):
                ids[row, : len(tokens)] = torch.tensor(tokens)
            last = torch.tensor([len(tokens) - 1 for tokens, _, _ in examples])
            hidden = model.model(ids, use_cache=False).last_hidden_state
            best = model.lm_head(hidden[torch.arange(len(examples)), last]).argmax(1).tolist()
            true = np.mean([b == e[1] for b, e in zip(best, examples, strict=True)])
            said = np.mean([b == e[2] for b, e in zip(best, examples, strict=True)])
            shares[name] = f"{true:.2f}/{said:.2f}"
        return shares


def train(work: Path, config: TrainConfig, taught: Path | None = None) -> dict[str, float]:
    """Train from `work/train.npz`, going on from a checkpoint; write bf16 to `work/model`.

    It begins with random weights and the tokenizer in `work`, or with a model that is `taught`.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(taught or work / "tokenizer")
    corpus = Corpus.load(work / "train.npz")
    model = new_model(config, tokenizer) if taught is None else _load(taught)
    optimizers = _optimizers(model, config)
    checkpoint, first, spent_s = work / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first, spent_s = state["step"], state["spent_s"]
    progress, start, smooth = Progress(tokenizer), time.monotonic() - spent_s, 0.0
    batches = corpus.batches(config.seed)
    for step in range(config.num_steps):
        batch = next(batches)
        if step < first:
            continue
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = _rate(config, step)
        loss = _loss(model, *corpus.padded(batch, tokenizer.pad_token_id))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        smooth = loss.item() if not smooth else 0.97 * smooth + 0.03 * loss.item()
        spent_s = time.monotonic() - start
        if (step + 1) % 50 == 0:
            print(f"train: step {step + 1}/{config.num_steps} loss {smooth:.4f} {spent_s:.0f} s")
        if (step + 1) % 200 == 0:
            print(f"train: true/scripted {progress(model)}", flush=True)
            state = {
                "model": model.state_dict(),
                "optimizers": [o.state_dict() for o in optimizers],
                "step": step + 1,
                "spent_s": spent_s,
            }
            torch.save(state, checkpoint.with_suffix(".new"))
            os.replace(checkpoint.with_suffix(".new"), checkpoint)
    model.to(torch.bfloat16).save_pretrained(work / "model")
    tokenizer.save_pretrained(work / "model")
    return {"loss": smooth, "train_s": round(spent_s)}
