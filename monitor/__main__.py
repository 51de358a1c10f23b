"""`python -m saeguard.monitor`: how the vLLM plugin starts the monitor."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from saeguard.monitor.config import load_config
from saeguard.monitor.errors import SaeguardError
from saeguard.monitor.process import serve, stand_by


def main() -> int:
    """Exit code 2, with one message, when the configuration cannot be used."""
    parser = argparse.ArgumentParser(prog="saeguard.monitor")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--parent", type=int, help="end when this process has ended")
    parser.add_argument("--tokenizer-file", help="of the model that is going to be served")
    parser.add_argument(
        "--stand-by", action="store_true", help="begin when a line comes on the standard input"
    )
    arguments = parser.parse_args()
    if arguments.stand_by and not stand_by(arguments.config, arguments.tokenizer_file):
        return 0
    try:
        config = load_config(arguments.config)
        serve(config, arguments.run_dir, arguments.parent, arguments.tokenizer_file)
    except SaeguardError as error:
        print(f"saeguard monitor: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
