"""The console script ends with a word, and no traceback, when its output cannot be written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "rules"
SCRIPT = [sys.executable, "-c", "from saeguard.monitor.cli import main; main()"]
COMMANDS = {
    "check": ["check", EXAMPLE],
    "json": ["check", "--format", "json", EXAMPLE],
    "explain": ["explain", "--all", EXAMPLE],
    "schema": ["schema"],
    "help": ["--help"],
}


def run(arguments, stdout, **environment):
    command = [*SCRIPT, *map(str, arguments)]
    return subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_a_full_disk_is_an_error(arguments):
    with open("/dev/full", "w") as full:
        ended = run(arguments, full)
    expected = "error: cannot write the output: No space left on device\n"
    assert (ended.returncode, ended.stderr) == (2, expected)


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_a_reader_that_has_gone_is_no_error(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    ended = run(arguments, writer)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_what_the_terminal_cannot_show_is_escaped(tmp_path):
    text = (EXAMPLE / "rules.yaml").read_text().replace("version: 1\n", "version: 1\nxé: 1\n", 1)
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    ended = run(["check", path], subprocess.PIPE, PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stderr) == (1, "")
    assert "unknown key 'x\\xe9'" in ended.stdout
