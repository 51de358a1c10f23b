"""An engine as `vllm serve` would make it, without the server."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from saeguard.integrations.vllm.settings import KEY

_PARSERS = ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")
"""Where vLLM's versions have the arguments of its server."""


def start_engine(arguments: Sequence[str]) -> Any:
    """Start it.

    Args:
        arguments: those of `vllm serve`. How the engine is watched the environment says.

    Returns:
        A `vllm.v1.engine.llm_engine.LLMEngine`.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.llm_engine import LLMEngine

    parser = _server_arguments(FlexibleArgumentParser(prog="vllm serve"))
    engine_args = EngineArgs.from_cli_args(parser.parse_args(list(arguments)))
    if isinstance(engine_args.additional_config, dict):
        engine_args.additional_config.pop(KEY, None)
    return LLMEngine.from_engine_args(engine_args, usage_context=UsageContext.OPENAI_API_SERVER)


def _server_arguments(parser: Any) -> Any:
    for name in _PARSERS:
        try:
            return importlib.import_module(name).make_arg_parser(parser)
        except ModuleNotFoundError:
            continue
    raise SystemExit("this vLLM keeps its server's arguments where saeguard does not find them")
