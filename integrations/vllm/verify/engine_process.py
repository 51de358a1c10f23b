"""The process with the engine: started with what `vllm serve` would be given, does what it is told
on stdin until that ends.
"""

from __future__ import annotations

import os
import random
import sys
import time
from typing import Any, BinaryIO

import msgspec

from saeguard.integrations.vllm.offline_engine import start_engine
from saeguard.integrations.vllm.verify.protocol import (
    Answer,
    Ask,
    Command,
    EngineFacts,
    Look,
    Reply,
    Served,
    WorkerFacts,
)
from saeguard.integrations.vllm.verify.setting import TENANT
from saeguard.integrations.vllm.verify.worker_facts import worker_facts

_NUM_TOKEN_IDS = 4096


def main(arguments: list[str]) -> None:
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what vLLM prints belongs into the log
    engine = start_engine(arguments)
    _tell(replies, _facts(engine))
    for line in sys.stdin.buffer:
        command: Command = msgspec.json.decode(line, type=Command)
        _tell(replies, _facts(engine) if isinstance(command, Look) else serve(engine, command.asks))
    engine.engine_core.shutdown()


def _tell(replies: BinaryIO, reply: Reply) -> None:
    replies.write(msgspec.json.encode(reply) + b"\n")
    replies.flush()


def serve(engine: Any, asks: list[Ask]) -> Served:
    """Hand in all requests at once, and step until all are answered."""
    started_s = time.perf_counter()
    for ask in asks:
        prompt = {"prompt_token_ids": ask.prompt}
        salt = {"cache_salt": ask.salt} if ask.salt else {}
        engine.add_request(ask.id, {**prompt, **salt}, _sampling(ask))
    answers = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                token_ids = list(output.outputs[0].token_ids)
                answers[output.request_id] = Answer(token_ids, output.num_cached_tokens or 0)
    return Served(answers, time.perf_counter() - started_s)


def _sampling(ask: Ask) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0.0,
        max_tokens=ask.max_tokens,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        extra_args={"tenant": TENANT} if ask.is_recorded else None,
    )


def _facts(engine: Any) -> EngineFacts:
    import vllm

    config = engine.vllm_config
    model = config.model_config
    return EngineFacts(
        vllm_version=vllm.__version__,
        model=model.model,
        revision=model.revision,
        trust_remote_code=bool(model.trust_remote_code),
        max_model_len=model.max_model_len,
        max_step_tokens=config.scheduler_config.max_num_batched_tokens,
        block_size=config.cache_config.block_size,
        prefix_caching=bool(config.cache_config.enable_prefix_caching),
        token_ids=_ordinary_tokens(engine, model),
        workers=[
            msgspec.convert(facts, WorkerFacts) for facts in engine.collective_rpc(worker_facts)
        ],
    )


def _ordinary_tokens(engine: Any, model: Any) -> list[int]:
    special, size = set(), model.get_vocab_size()
    if not model.skip_tokenizer_init:
        tokenizer = engine.get_tokenizer()
        special, size = set(tokenizer.all_special_ids), min(size, len(tokenizer))
    ordinary = [token_id for token_id in range(size) if token_id not in special]
    return random.Random(0).sample(ordinary, min(len(ordinary), _NUM_TOKEN_IDS))


if __name__ == "__main__":
    main(sys.argv[1:])
