"""Break what saeguard does in vLLM's processes, in the way that a file names: it may change while
the engine runs. Tests only.

Install as a `vllm.general_plugins` entry point; SABOTAGE is the file's path.
"""

import os
from dataclasses import replace
from functools import wraps
from pathlib import Path

import torch  # noqa: F401  the annotations of the op, which the wrapper takes over, name it


def way():
    return Path(os.environ["SABOTAGE"]).read_text()


def register():
    from saeguard.integrations.vllm import op, step_view
    from saeguard.integrations.vllm.outbox import DirectOutbox

    if hasattr(op._tap, "__wrapped__"):
        return  # plugins are loaded several times
    op._tap = broken_tap(op._tap)
    step_view._view_v1 = broken_view(step_view._view_v1)
    DirectOutbox.post = broken_post(DirectOutbox.post)


def broken_tap(tap):
    @wraps(tap)
    def wrapped(stream, rows, bias, threshold, norm, scores, calls):
        if way() == "the taps are gone":
            return
        tap(stream, rows, bias, threshold, norm, scores, calls)
        if way() == "scores are 1 % too large":
            scores *= 1.01

    return wrapped


def broken_view(view):
    @wraps(view)
    def wrapped(runner, scheduler_output):
        found = view(runner, scheduler_output)
        if way() == "two requests are swapped" and len(found.req_ids) > 3:
            a, b, *others = found.req_ids
            return replace(found, req_ids=[b, a, *others])
        if way() == "the cache key is forgotten":
            runner.vllm_config.additional_config = {}
        return found

    return wrapped


def broken_post(post):
    num_frames = 0

    @wraps(post)
    def wrapped(self, build):
        nonlocal num_frames
        if "WorkerMonitor" in build.__qualname__:  # a frame
            num_frames += 1
            if way() == "every tenth frame is lost" and num_frames % 10 == 0:
                return
        if way() != "the monitor hears nothing":
            post(self, build)

    return wrapped
