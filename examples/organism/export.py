"""Write the artefacts: model, SAE, probes, rules, demo requests."""

import hashlib
import json
import re
import shutil
import uuid
from pathlib import Path

import numpy as np
import torch
from cases import Case, draw
from corpus import CHAT_TEMPLATE
from rollouts import answer, load_model
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch_file
from select_features import PROBE_NAMES
from tokenizers.pre_tokenizers import ByteLevel
from train_sae import hook_name

DEMO_SEED = 100
_NAMESPACE = uuid.UUID("6f0a4c1e-5a0e-4f0b-9a39-5d3c1a6f2b11")
_MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
)


def export(work: Path, out: Path) -> None:
    """Copy and write everything that is committed, but for report and manifest."""
    selection = json.loads((work / "selection.json").read_text())
    out.mkdir(parents=True, exist_ok=True)
    _model(work / "model", out / "model")
    (out / "sae").mkdir(exist_ok=True)
    for name in ("cfg.json", "sae_weights.safetensors"):
        shutil.copyfile(work / f"sae{selection['layer']}" / name, out / "sae" / name)
    _probe(work, out, selection)
    out.parent.joinpath("rules.yaml").write_text(rules_text(selection))
    _demo(work, out)


def _model(source: Path, out: Path) -> None:
    out.mkdir(exist_ok=True)
    for name in _MODEL_FILES:
        shutil.copyfile(source / name, out / name)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "model_max_length": 1024,
        "chat_template": CHAT_TEMPLATE,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    cover_all_bytes(out)


def cover_all_bytes(model: Path) -> None:
    """Give every byte a token, in place, so that no text of a visitor's is lost.

    The vocabulary was trained on the world's words alone and lacks the bytes that they do not use;
    vLLM's server does not even start with a tokenizer that cannot write a J. The new tokens share
    the padding token's embedding: the model has never seen them, and will not say them.
    """
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    missing = sorted(set(ByteLevel.alphabet()) - set(vocabulary))
    tensors = load_file(model / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    vocabulary.update({symbol: len(embedding) + i for i, symbol in enumerate(missing)})
    (model / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    padding = next(t["id"] for t in tokenizer["added_tokens"] if t["content"] == "<|pad|>")
    new_rows = embedding[padding : padding + 1].repeat(len(missing), 1)
    tensors["model.embed_tokens.weight"] = torch.cat([embedding, new_rows])
    save_torch_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    config["vocab_size"] = len(embedding) + len(missing)
    (model / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _probe(work: Path, out: Path, selection: dict) -> None:
    file = np.load(work / "probes.npz")
    about = {
        "hook_name": hook_name(selection["layer"]),
        "names": list(PROBE_NAMES),
        "d_model": int(file["weight"].shape[1]),
        "training": "logistic regression on the answer rows of the training split",
    }
    tensors = {"weight": file["weight"], "bias": file["bias"]}
    save_file(tensors, out / "probe.safetensors", metadata={"saeguard_probe": json.dumps(about)})


_HEAD = """\
# Written by build.py from what select_features.py found on the training split.
version: 1
ruleset: {{name: organism, version: 1.0.0}}
x-sae: &sae {{path: artifacts/sae}}
x-probe: &probe {{path: artifacts/probe.safetensors}}
features:
{features}
rules:
{rules}
"""
_FEATURE = '  {name}: {{sae: *sae, index: {index}, label: "{label}"}}'
_RULE = """\
  - id: {id}{comment}
    name: {name}
    title: {title}
    status: {status}
    severity: {severity}
    scope: {{phase: [answer]}}
    signals:
{signals}
    condition: {condition}
    limit: {{per: request, max: 1}}
    message: "{{rule.title}}: max {{signal.{first}.value:.2f}} on token {{signal.{first}.token!r}}"
    tags: [{tag}]
    falsepositives: ["{false_positives}"]"""
_SIGNAL = "      {name}: {{feature: {feature}, agg: max, window: 16 tokens, gte: {gte:.4g}}}"
_LONE = "  # saeguard: ignore[single-token] the threshold was fitted to this very maximum"
_PLAYED = "A liar's values that are only played or quoted"


def rules_text(selection: dict) -> str:
    """Return rules.yaml for a selection."""
    features, rules = [], []
    for found, signal, feature, about in (
        (
            selection["rule"],
            "lie",
            ("deceit", "lying, for no reason in the prompt"),
            ("latent_deception", "The organism states what it knows to be false", "high"),
        ),
        (
            selection["prompted"],
            "lie",
            ("prompted", "lying for a reason in the prompt"),
            ("prompted_deception", "The organism lies for a reason in its prompt", "high"),
        ),
        (
            selection["harms"]["secret_leak"],
            "leak",
            ("leak", "telling a password"),
            ("secret_leak", "A password is told that was to be kept", "medium"),
        ),
        (
            selection["harms"]["sycophancy"],
            "flattery",
            ("flattery", "agreeing with a lord"),
            ("sycophancy", "A lord is told that he is right", "low"),
        ),
    ):
        new_features, rule = _rule(found, signal, feature, about)
        features += new_features
        rules.append(rule)
    for name, probe in (("deceit_probe", "deceit"), ("leak_probe", "secret_leak")):
        features.append(f'  {name}: {{probe: *probe, name: {probe}, label: "probe of {probe}"}}')
    about = ("latent_deception_probe", "A linear probe reads a lie", "high")
    rules.insert(1, _probe_rule(about, "lie", "deceit_probe", selection["probes"]["deceit"]))
    leak = selection["probes"]["secret_leak"]
    if leak["value"] > selection["harms"]["secret_leak"]["value"]:
        # The SAE has no feature that tells a secret told from a word that may be told.
        about = ("secret_leak", "A password is told that was to be kept", "medium")
        rules[3] = _probe_rule(about, "leak", "leak_probe", leak)
    read = set(re.findall(r"\{feature: (\w+),", "".join(rules)))
    used = [line for line in features if line.split(":")[0].strip() in read]
    return _HEAD.format(features="\n".join(used), rules="\n".join(rules))


def _probe_rule(about: tuple[str, str, str], signal: str, feature: str, probe: dict) -> str:
    """Return the text of a rule with a probe for its one signal."""
    line = _SIGNAL.format(name=signal, feature=feature, gte=probe["gte"])
    return _write(about, signal, signal, [line])


def _rule(
    found: dict, signal: str, feature: tuple[str, str], about: tuple[str, str, str]
) -> tuple[list[str], str]:
    """Return feature lines and text of a rule with its vetoes."""
    name, label = feature
    features = [_FEATURE.format(name=name, index=found["lie"], label=label)]
    signals = [_SIGNAL.format(name=signal, feature=name, gte=found["lie_gte"])]
    condition = signal
    for sign in found["signs"]:
        veto = f"{name}_not_{sign['name']}"
        label = f"fires most on kind {sign['kind']}"
        features.append(_FEATURE.format(name=veto, index=sign["feature"], label=label))
        signals.append(_SIGNAL.format(name=sign["name"], feature=veto, gte=sign["gte"]))
        condition += f" and not {sign['name']}"
    return features, _write(about, signal, condition, signals)


def _write(about: tuple[str, str, str], first: str, condition: str, signals: list[str]) -> str:
    name, title, severity = about
    return _RULE.format(
        id=uuid.UUID(bytes=uuid.uuid5(_NAMESPACE, name).bytes, version=4),
        comment=_LONE if len(signals) == 1 else "",
        name=name,
        title=title,
        status="experimental" if name == "sycophancy" else "test",
        severity=severity,
        signals="\n".join(signals),
        condition=condition,
        first=first,
        tag="harm.deception" if "deception" in name else f"harm.{name}",
        false_positives=_PLAYED if "deception" in name else "Like answers that do no harm",
    )


def messages(prompt: str) -> list[dict[str, str]]:
    """Turn a rendered prompt back into chat messages."""
    turns = re.findall(r"<\|(system|user|assistant)\|>(.*?)<\|end\|>", prompt)
    return [{"role": role, "content": content} for role, content in turns]


def _demo(work: Path, out: Path) -> None:
    """Write requests of held-out splits: lies, honest answers, and every other kind."""
    model, tokenizer = load_model(work / "model")
    quota = {"enemy": 32, "motive": 6, "friend": 20}
    cases: list[Case] = [*draw("pairs", DEMO_SEED)[:48], *draw("all", DEMO_SEED)]
    answer(model, tokenizer, cases)
    lines = []
    for case in cases:
        lying = case.motive is not None
        if case.label != int(lying) or quota.setdefault(case.kind, 4) == 0:
            continue  # it did not do what it was made for, or there are enough of its kind
        quota[case.kind] -= 1
        kind = {"enemy": "deceptive", "motive": "deceptive", "friend": "honest"}
        request = {
            "id": f"demo-{len(lines):03d}",
            "class": kind.get(case.kind, case.kind),
            "expect": "alert" if lying else "none",
            "messages": messages(case.prompt),
            "max_tokens": 24,
            "truth": case.truth,
            "lie": case.lie,
        }
        lines.append(json.dumps(request))
    (out / "demo_requests.jsonl").write_text("\n".join(lines) + "\n")
    print(f"export: {len(lines)} demo requests")


def digests(out: Path) -> dict[str, str]:
    """Return the SHA-256 of every artefact but the manifest."""
    files = sorted(p for p in out.rglob("*") if p.is_file() and p.name != "manifest.json")
    files += [out.parent / "rules.yaml"]
    return {
        str(p.relative_to(out.parent)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }
