"""What watching costs: throughput of one engine with saeguard and one without, in turns.

Both engines (torch.compile on, the demo model, its rules) stay up in processes of their own; each
round generates the same 32 x 128 tokens on one and then on the other, so that whatever else the
machine does hits both. Prints the ratio of throughputs and the CPU seconds of all processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ORGANISM = Path(__file__).resolve().parents[1] / "examples" / "organism"
NUM_PROMPTS, NUM_TOKENS = 32, 128

Result = dict[str, float]
Pair = tuple[Result, Result]
"""Of a round: plain vLLM, and with saeguard."""


@dataclass(frozen=True)
class Load:
    """What an engine serves, and how it is made."""

    model: str = str(ORGANISM / "artifacts" / "model")
    num_tokens: int = NUM_TOKENS
    """Generated for each prompt."""
    engine: dict[str, Any] = field(default_factory=lambda: {"max_model_len": 512})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--quick", action="store_true", help="4 rounds")
    parser.add_argument("--engine", metavar="LOAD", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine is not None:
        serve_rounds(Load(**json.loads(arguments.engine)))
        return
    num_rounds = 4 if arguments.quick else arguments.rounds
    print(f"starting two engines; then {num_rounds} rounds of {NUM_PROMPTS} x {NUM_TOKENS} tokens")
    with tempfile.TemporaryDirectory(prefix="saeguard-overhead-") as work:
        rules = ORGANISM / "rules.yaml"
        (pairs,) = compare(Path(work), Load(), rules, [NUM_PROMPTS], num_rounds)
    report(pairs, NUM_PROMPTS * NUM_TOKENS)


def compare(
    work: Path, load: Load, rules: Path, batches: list[int], num_rounds: int
) -> list[list[Pair]]:
    """Of each number of prompts the rounds."""
    config = write_config(work, rules)
    plain, armed = start_engine(work, load, None), start_engine(work, load, config)
    try:
        return [run_rounds(plain, armed, num_prompts, num_rounds) for num_prompts in batches]
    finally:
        for engine in (plain, armed):
            engine.stdin.close()  # type: ignore[union-attr]
            engine.wait(30)


def run_rounds(
    plain: subprocess.Popen[str], armed: subprocess.Popen[str], num_prompts: int, num_rounds: int
) -> list[Pair]:
    for engine in (plain, armed):
        ask(engine, num_prompts)  # warm-up, not counted
    pairs = []
    for number in range(num_rounds):  # whoever is first changes from round to round
        first, second = (plain, armed) if number % 2 else (armed, plain)
        results = {id(first): ask(first, num_prompts), id(second): ask(second, num_prompts)}
        pairs.append((results[id(plain)], results[id(armed)]))
        print(f"  round {number + 1}: {ratio(pairs[-1]):.3f}", flush=True)
    return pairs


def report(pairs: list[Pair], tokens: int) -> None:
    ratios = sorted(ratio(pair) for pair in pairs)
    by_engine = zip(*pairs, strict=True)
    for name, results in zip(("plain vLLM", "with saeguard"), by_engine, strict=True):
        wall_s, cpu_s, monitor_s = (
            statistics.median(result[key] for result in results)
            for key in ("wall_s", "cpu_s", "monitor_s")
        )
        share = f", {monitor_s:.2f} of them the monitor's" if monitor_s else ""
        print(f"{name:15}{tokens / wall_s:9.0f} tokens/s {cpu_s:7.2f} CPU s per round{share}")
    print(
        f"throughput ratio {statistics.median(ratios):.3f} "
        f"(median of {len(ratios)} rounds; {ratios[0]:.3f} to {ratios[-1]:.3f})"
    )


def ratio(pair: Pair) -> float:
    """Throughput with saeguard by throughput without."""
    plain, armed = pair
    return plain["wall_s"] / armed["wall_s"]


def start_engine(work: Path, load: Load, config: Path | None) -> subprocess.Popen[str]:
    name = "plain" if config is None else "armed"
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        **os.environ,
        **({"SAEGUARD_DISABLE": "1"} if config is None else {"SAEGUARD_CONFIG": str(config)}),
    }
    log = (work / f"{name}.log").open("w")
    command = [sys.executable, __file__, "--engine", json.dumps(asdict(load))]
    engine = subprocess.Popen(
        command, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
    )  # fmt: skip
    answer(engine, work / f"{name}.log")
    print(f"  {name} engine is ready", flush=True)
    return engine


def write_config(work: Path, rules: Path) -> Path:
    from saeguard.monitor.compile import compile_watchlist
    from saeguard.monitor.config import read_rules
    from saeguard.monitor.watchlist import save

    save(compile_watchlist(read_rules([rules])), work / "watch.safetensors")
    config = work / "saeguard.yaml"
    config.write_text(
        f"version: 1\nrules: [{rules}]\nwatchlist: watch.safetensors\nstore: alerts.sqlite\n"
    )
    return config


def ask(engine: subprocess.Popen[str], num_prompts: int) -> Result:
    """One round on one engine."""
    assert engine.stdin is not None
    print(num_prompts, file=engine.stdin, flush=True)
    return answer(engine, None)


def answer(engine: subprocess.Popen[str], log: Path | None) -> Result:
    assert engine.stdout is not None
    for line in engine.stdout:
        if line.startswith("RESULT "):
            result: Result = json.loads(line.removeprefix("RESULT "))
            return result
    sys.exit(f"error: an engine ended\n{log.read_text()[-3000:] if log else ''}")


def serve_rounds(load: Load) -> None:
    """The child: an engine that answers as many prompts as each line that it reads says."""
    from vllm import LLM, SamplingParams

    llm = LLM(load.model, enable_prefix_caching=False, **load.engine)
    params = SamplingParams(temperature=0.0, max_tokens=load.num_tokens, ignore_eos=True)
    print("RESULT {}", flush=True)
    for line in sys.stdin:
        prompts: list[Any] = [
            {"prompt_token_ids": [10 + i, *range(20, 50)]} for i in range(int(line))
        ]
        before, started_s = cpu_seconds(), time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
        wall_s = time.perf_counter() - started_s
        time.sleep(0.3)  # the monitor finishes its share
        used = {name: s - before[name] for name, s in cpu_seconds().items()}
        print("RESULT " + json.dumps({"wall_s": wall_s, **used}), flush=True)


def cpu_seconds() -> dict[str, float]:
    """Of this process and all below it, and of the monitor among them."""
    import psutil

    seconds = {"cpu_s": 0.0, "monitor_s": 0.0}
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        times = process.cpu_times()
        seconds["cpu_s"] += times.user + times.system
        if "saeguard.monitor" in process.cmdline():
            seconds["monitor_s"] += times.user + times.system
    return seconds


if __name__ == "__main__":
    main()
