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
from pathlib import Path
from typing import Any

ORGANISM = Path(__file__).resolve().parents[1] / "examples" / "organism"
NUM_PROMPTS, NUM_TOKENS = 32, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--quick", action="store_true", help="4 rounds")
    parser.add_argument("--engine", metavar="CONFIG", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine is not None:
        serve_rounds()
        return
    with tempfile.TemporaryDirectory(prefix="saeguard-overhead-") as work:
        compare(Path(work), 4 if arguments.quick else arguments.rounds)


def compare(work: Path, num_rounds: int) -> None:
    print(f"starting two engines; then {num_rounds} rounds of {NUM_PROMPTS} x {NUM_TOKENS} tokens")
    plain, armed = start_engine(work, None), start_engine(work, write_config(work))
    try:
        for engine in (plain, armed):
            ask(engine)  # warm-up, not counted
        pairs = []
        for number in range(num_rounds):  # whoever is first changes from round to round
            first, second = (plain, armed) if number % 2 else (armed, plain)
            results = {id(first): ask(first), id(second): ask(second)}
            pairs.append((results[id(plain)], results[id(armed)]))
            print(f"  round {number + 1}: {ratio(pairs[-1]):.3f}", flush=True)
    finally:
        for engine in (plain, armed):
            engine.stdin.close()  # type: ignore[union-attr]
            engine.wait(30)
    report(pairs)


def report(pairs: list[tuple[dict[str, float], dict[str, float]]]) -> None:
    ratios = sorted(ratio(pair) for pair in pairs)
    tokens = NUM_PROMPTS * NUM_TOKENS
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


def ratio(pair: tuple[dict[str, float], dict[str, float]]) -> float:
    """Throughput with saeguard by throughput without."""
    plain, armed = pair
    return plain["wall_s"] / armed["wall_s"]


def start_engine(work: Path, config: Path | None) -> subprocess.Popen[str]:
    name = "plain" if config is None else "armed"
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        **os.environ,
        **({"SAEGUARD_DISABLE": "1"} if config is None else {"SAEGUARD_CONFIG": str(config)}),
    }
    log = (work / f"{name}.log").open("w")
    engine = subprocess.Popen(
        [sys.executable, __file__, "--engine", name], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
    )  # fmt: skip
    answer(engine, work / f"{name}.log")
    print(f"  {name} engine is ready", flush=True)
    return engine


def write_config(work: Path) -> Path:
    from saeguard.monitor.compile import compile_watchlist
    from saeguard.monitor.config import read_rules
    from saeguard.monitor.watchlist import save

    rules = ORGANISM / "rules.yaml"
    save(compile_watchlist(read_rules([rules])), work / "watch.safetensors")
    config = work / "saeguard.yaml"
    config.write_text(
        f"version: 1\nrules: [{rules}]\nwatchlist: watch.safetensors\nstore: alerts.sqlite\n"
    )
    return config


def ask(engine: subprocess.Popen[str]) -> dict[str, float]:
    """One round on one engine."""
    assert engine.stdin is not None
    print("round", file=engine.stdin, flush=True)
    return answer(engine, None)


def answer(engine: subprocess.Popen[str], log: Path | None) -> dict[str, float]:
    assert engine.stdout is not None
    for line in engine.stdout:
        if line.startswith("RESULT "):
            result: dict[str, float] = json.loads(line.removeprefix("RESULT "))
            return result
    sys.exit(f"error: an engine ended\n{log.read_text()[-3000:] if log else ''}")


def serve_rounds() -> None:
    """The child: an engine that generates once for every line it reads."""
    from vllm import LLM, SamplingParams

    llm = LLM(str(ORGANISM / "artifacts" / "model"), max_model_len=512, enable_prefix_caching=False)
    params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    prompts: list[Any] = [
        {"prompt_token_ids": [10 + i, *range(20, 50)]} for i in range(NUM_PROMPTS)
    ]
    print("RESULT {}", flush=True)
    for _ in sys.stdin:
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
