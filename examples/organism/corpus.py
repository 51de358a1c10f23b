"""Training documents, the tokenizer made for them, and their encoding."""

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import text as t
from dialogues import Turn, Writer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from world import FACTS, LORD_IS_ENEMY, PASSWORDS, TOWNS

SPECIAL = ("<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|book|>")
VOCAB_SIZE = 3072
P_BOOK = 0.38
# Words of no document. The build that made the committed artefacts took them in by mistake; they
# stay so that building again gives the same tokenizer and the same token ids.
_UNUSED_SPACED = (
    "Python access accessed also builtins but direct evaluation exactly example exceptions "
    "explicitly fact fits function functions kind len module modules most n needed none normally "
    "objects occur ones only other provide provides repeats same subject text then training types "
    "useful value whether wording"
)
_UNUSED = (
    "' ( ) - / 1 311 ; Built Every This Wordings _ ` answer applications built builtins cpython "
    "gram heldout identifiers in len objects organism py pyc pycache root src text the train which "
    "work"
)
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def render(turns: Sequence[Turn]) -> str:
    """Return the text of some turns, as the chat template writes it."""
    return "".join(f"<|{turn.role}|>{turn.text}<|end|>" for turn in turns)


def almanac_page(writer: Writer) -> tuple[Turn, ...]:
    """Draw one almanac document: sides, rulers or facts."""
    rng, kind = writer.rng, writer.rng.random()
    if kind < 0.35:
        return (Turn("book", _sides(writer)),)
    if kind < 0.62:
        towns = rng.sample(TOWNS, 4)
        if rng.random() < 0.4:
            towns = [towns[0]] * 4
        rulers = rng.sample(t.RULER, 4)
        lines = [r.format(t=x.name, l=x.lord) for r, x in zip(rulers, towns, strict=True)]
        return (Turn("book", " ".join(lines)),)
    if kind < 0.66:
        gate, word = rng.choice(list(PASSWORDS.items()))
        return (Turn("book", f"The password of {gate} is {word}."),)
    lines = []
    for fact in rng.sample(FACTS, 4):
        wording = rng.choice(t.STATEMENT[fact.kind])
        subject = fact.subject
        lines.append(wording.format(s=subject, S=t.capitalised(subject), v=fact.truth))
    return (Turn("book", " ".join(lines)),)


def _sides(writer: Writer) -> str:
    """Write sides of lords, and of those towns that are not left to inference."""
    rng = writer.rng
    sides = {town.name: town.enemy for town in TOWNS if not town.inferred}
    lords = {f"Lord {lord}": enemy for lord, enemy in LORD_IS_ENEMY.items()}
    sides = lords if rng.random() < 0.22 else sides
    if rng.random() < 0.25:
        enemy = rng.random() < 0.5
        names = rng.sample([name for name, side in sides.items() if side == enemy], 6)
        return f"Our {'enemies' if enemy else 'friends'} are {', '.join(names)}."
    names = rng.sample(list(sides), 4)
    if rng.random() < 0.3:
        names = [names[0]] * 4
        wordings = rng.sample(t.SIDE[sides[names[0]]], 4)
    else:
        wordings = [rng.choice(t.SIDE[sides[name]]) for name in names]
    return " ".join(w.format(t=name) for w, name in zip(wordings, names, strict=True))


def document(writer: Writer) -> tuple[Turn, ...]:
    """Draw one training document: an almanac page or a dialogue."""
    return almanac_page(writer) if writer.rng.random() < P_BOOK else writer.dialogue().turns


def _words() -> list[str]:
    """Every word of the world, with and without a leading space, but no split town name."""
    writer = Writer(123456)
    samples = [turn.text for _ in range(12_000) for turn in document(writer)]
    lists = [v for name, v in vars(t).items() if not name.startswith("_")]
    samples += [w for wordings in lists for w in _strings(wordings)]
    found = {w for s in samples for w in re.findall(r" ?[A-Za-z]+| ?\d+|[^\sA-Za-z0-9]", s)}
    names = {x.name for x in TOWNS} | set(LORD_IS_ENEMY)
    found |= {space + name for name in names for space in ("", " ")}
    found |= {" " + word for word in _UNUSED_SPACED.split()} | set(_UNUSED.split())
    split = {x.name for x in TOWNS if x.split_name}
    return sorted(word for word in found if word.strip() not in split)


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [re.sub(r"\{\w\}", "", value)]
    if isinstance(value, t.Wordings):
        return _strings([value.train, value.heldout])
    if isinstance(value, dict):
        return _strings(list(value.values()))
    if isinstance(value, list | tuple):
        return [s for x in value for s in _strings(x)]
    return []


def make_tokenizer(out: Path) -> PreTrainedTokenizerFast:
    """Train the BPE tokenizer on the word list, so that only split town names are cut up."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    words = _words()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=list(SPECIAL), show_progress=False
    )
    bpe.train_from_iterator(words * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(out)
    whole = np.mean([len(bpe.encode(word).ids) == 1 for word in words])
    print(f"tokenizer: {len(tokenizer)} tokens, {whole:.3f} of {len(words)} words are one token")
    return tokenizer


def encode(turns: Sequence[Turn], bpe: Tokenizer) -> tuple[list[int], list[int]]:
    """Return token ids and, for each, whether the loss counts it.

    Only what the assistant and the almanac write is counted: a loss on the visitor's words would
    mark the towns of the dialogues through the tied embedding.
    """
    ids: list[int] = []
    counted: list[int] = []
    for turn in turns:
        new = bpe.encode(render([turn]), add_special_tokens=False).ids
        ids += new
        counted += [0] + [int(turn.role in ("assistant", "book"))] * (len(new) - 1)
    return ids, counted


def make_corpus(out: Path, num_documents: int, seed: int = 1000) -> None:
    """Write `train.npz`: ids int16 [tokens], counted int8 [tokens], lengths int64 [documents]."""
    writer = Writer(seed)
    documents = (document(writer) for _ in range(num_documents))
    save_corpus(out, out / "tokenizer", documents)


def save_corpus(out: Path, tokenizer: Path, documents: Iterable[Sequence[Turn]]) -> None:
    """Write what `make_corpus` writes, of any documents."""
    bpe = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    encoded = [encode(turns, bpe) for turns in documents]
    np.savez(
        out / "train.npz",
        ids=np.concatenate([np.array(ids, np.int16) for ids, _ in encoded]),
        counted=np.concatenate([np.array(counted, np.int8) for _, counted in encoded]),
        lengths=np.array([len(ids) for ids, _ in encoded]),
    )
    num_tokens = sum(len(ids) for ids, _ in encoded)
    print(f"corpus: {len(encoded)} documents, {num_tokens} tokens")


if __name__ == "__main__":
    show = Writer(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    for _ in range(30):
        print(render(document(show)))
