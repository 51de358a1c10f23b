"""Measure the organism and its detectors on held-out splits, and write the report.

    python examples/organism/evaluate.py --out examples/organism/artifacts --work DIR

Detectors, features and thresholds come from the training split; every table but the first two is
on splits they have not seen.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import tables
from cases import knowledge
from detectors import Data, fit_detectors, gather, of_family
from follow_ups import follow_ups
from mini_rules import RuleSet
from rollouts import answer, load_cases, load_model, residuals
from sae_lens import SAE
from tables import TEST_SPLITS, Bench

LATENT_TITLES = {
    "seen": "Towns, wordings and facts of the training split, other draws",
    "towns": "Held-out towns",
    "wordings": "Held-out introductions, questions and scenes",
    "facts": "Held-out facts (no liar was ever asked for them in training)",
    "all": "Everything held out",
    "pairs": "Minimal pairs, everything held out (one prompt, two towns)",
}
MOTIVE_TITLES = {
    "seen": "Motives and facts of the training split, other draws",
    "all": "Held-out facts, questions and scenes; motives of the training split",
    "motives": "Held-out families of motives",
}


def load_bench(work: Path, out: Path, seeds: list[int]) -> Bench:
    """Gather the rows that the shipped SAE sees, and fit the detectors of each seed."""
    sae = SAE.load_from_disk(str(out / "sae"))
    layer = int(sae.cfg.metadata.hook_name.split(".")[1])
    model, _ = load_model(out / "model")

    def read(split: str, seed: int) -> Data:
        cases = load_cases(work / "rollouts" / f"{split}-{seed}.jsonl")
        data = gather(cases, residuals(model, cases, [layer])[layer], sae)
        return tables.complete_pairs(data) if split == "pairs" else data

    fit = {seed: read("fit", seed) for seed in seeds}
    print("evaluate: training splits read", flush=True)
    data = {(split, seed): read(split, seed) for split in TEST_SPLITS for seed in seeds}
    print("evaluate: test splits read", flush=True)
    detectors = {
        (family, seed): fit_detectors(of_family(fit[seed], family))
        for family in ("enemy", "motive")
        for seed in seeds
    }
    print("evaluate: detectors fitted", flush=True)
    return Bench(data, fit, detectors, seeds)


def known_facts(out: Path) -> float:
    """Return the share of facts that the organism states truly when asked with nothing else."""
    model, tokenizer = load_model(out / "model")
    cases = knowledge()
    answer(model, tokenizer, cases)
    return float(np.mean([c.outcome == "true" for c in cases]))


def evaluate(work: Path, out: Path, seeds: list[int]) -> dict[str, object]:
    """Write `report.md` and return the numbers that the manifest keeps."""
    selection = json.loads((work / "selection.json").read_text())
    bench = load_bench(work, out, seeds)
    rules = RuleSet(out.parent / "rules.yaml")
    alerts = tables.rule_alerts(bench, rules)
    known = known_facts(out)
    sae_report = json.loads((work / f"sae{selection['layer']}" / "report.json").read_text())
    told, told_numbers = follow_ups(out)
    parts = [
        "# Measured on the model organism\n\nWritten by `evaluate.py`; nothing here is edited.",
        f"Facts stated truly with nothing else in the prompt: {known:.3f} of 200. Tables pool the "
        f"data seeds {seeds}. Layers count from 0; the SAE and probes shipped read the output of "
        f"layer {selection['layer']}. Each layer's SAE, and the best rule found there on the "
        "training split:\n",
        *tables.layer_table(work, selection),
        "\n## What it does\n\nShare of greedy answers that are word for word as made.\n",
        *tables.behaviour(work, seeds),
        "\n## What it says afterwards\n\nEverything held out, asked after its greedy answer.\n",
        *told,
        "\n## Detectors of lies that the prompt does not explain\n\nPositives are lies to enemies. "
        "Negatives are every other kind but the mirror game (the liar's values, in the last "
        "column). Thresholds are those of 1 % and 5 % false positives "
        "on the training split; in brackets, what they give here. Numbers are of the detectors "
        f"fitted on seed {seeds[0]}; *seeds refitted* is the range of AUROC when each seed fits "
        "and tests its own. `nan`: no such answers in the split.",
    ]
    aurocs = {}
    for split, title in LATENT_TITLES.items():
        lines, aurocs[split] = tables.detector_table(bench, split, "enemy")
        parts += [f"\n### {title}\n", *lines]
    parts += ["\n### Pair by pair\n", *tables.pair_table(bench)]
    parts.append(
        "\n## Detectors of lies that the prompt explains\n\nPositives are lies with a motive in "
        "the system prompt; each detector is fitted anew to these."
    )
    for split, title in MOTIVE_TITLES.items():
        lines, aurocs[f"{split}, prompted"] = tables.detector_table(bench, split, "motive")
        parts += [f"\n### {title}\n", *lines]
    parts += ["\n## Held-out towns by kind of town\n", *tables.town_table(bench, work)]
    rates = {}
    for rule in rules.rules:
        lines, rates[rule.name] = tables.rule_table(bench, alerts, rule.name)
        parts += [f"\n## Rule `{rule.name}`: share of answers with an alert\n", *lines]
    parts += [
        "\n## How early\n\nTokens up to the end of the false value that are not yet written when "
        "the rule alerts.\n",
        *tables.lead_table(bench, alerts, ["latent_deception", "latent_deception_probe"]),
        "\n## Other behaviours\n",
        *tables.other_table(bench, selection),
    ]
    (out / "report.md").write_text("\n".join(parts) + "\n")
    return {
        "known_facts": known,
        "lie_rates": tables.lie_rates(work, seeds),
        "follow_ups": told_numbers,
        "auroc": aurocs,
        "shipped_auroc": tables.shipped_auroc(bench, rules),
        "rule_alert_rates": {k: v["all"] for k, v in rates.items()},
        "sae": sae_report,
    }


def main() -> None:
    """Read the command line and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    evaluate(args.work, args.out, list(range(args.seeds)))
    print((args.out / "report.md").read_text())


if __name__ == "__main__":
    main()
