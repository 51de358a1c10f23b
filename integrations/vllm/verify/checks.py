"""Judge the evidence: one function for each thing that watching rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from saeguard.integrations.vllm.verify.protocol import EngineFacts
from saeguard.integrations.vllm.verify.reference import NoReferenceError, Reference
from saeguard.integrations.vllm.verify.session import Evidence, Seen
from saeguard.integrations.vllm.verify.setting import RULE

Result = Literal["ok", "failed", "unproven", "skipped"]
"""`unproven`: it could not be found out; `skipped`: nobody wanted to know."""

NAMES = (
    "taps", "values", "rows", "prefix cache", "ledger", "cache key", "monitor", "cost",
)  # fmt: skip

TOLERANCES = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
"""By the model's dtype: how far a score may be from Hugging Face's in float32, by the largest
projection of any token on the feature's direction. Rounding explains no more."""

MAX_REFERENCE_TOKENS = 1024
"""Longer sequences are not computed by Hugging Face, which would take long without a GPU."""

_MAX_FAULTS = 3

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Check:
    """What was found out about one of them."""

    name: str
    result: Result
    detail: str
    numbers: dict[str, float] = field(default_factory=dict)


def run_checks(evidence: Evidence, reference: list[Reference] | NoReferenceError) -> list[Check]:
    """All but the cost.

    Args:
        reference: of the sequences of `referenced`, or why there is none.
    """
    return [
        taps(evidence),
        values(evidence, reference),
        rows(evidence),
        prefix_cache(evidence),
        ledger(evidence),
        cache_key(evidence.after),
        monitor(evidence),
    ]


def taps(evidence: Evidence) -> Check:
    """Every tap ran in warm-up and wrote its buffer, and its counter on the device rises by one
    with each step that the monitor is told of.
    """
    before, after = evidence.before.workers, evidence.after.workers
    num_steps = max(w.num_steps - v.num_steps for v, w in zip(before, after, strict=True))
    faults = [] if num_steps > 0 else ["no step was sent to the monitor"]
    for old, new in zip(before, after, strict=True):
        for i, place in enumerate(new.places):
            name, num_calls = f"{place} of worker {new.rank}", new.calls[i] - old.calls[i]
            if new.compile_mode != "none" and old.calls[i] == 0:
                faults.append(f"{name} did not run in warm-up")
            if not new.is_written[i]:
                faults.append(f"{name} has written nothing")
            if num_calls != num_steps:
                faults.append(f"{name} ran {num_calls} times in {num_steps} steps")
    num_taps = sum(len(worker.places) for worker in after)
    good = f"{num_taps} taps, each ran once in each of {num_steps} steps"
    return _check("taps", faults, good, taps=num_taps, steps=num_steps)


def referenced(evidence: Evidence) -> list[Seen]:
    """Whose scores Hugging Face is asked for."""
    return [s for s in evidence.together if len(s.token_ids) <= MAX_REFERENCE_TOKENS]


def values(evidence: Evidence, reference: list[Reference] | NoReferenceError) -> Check:
    """Scores equal those of Hugging Face, of prompts and of answers, together and alone."""
    if isinstance(reference, NoReferenceError):
        return Check("values", "unproven", str(reference))
    watchlist = evidence.setting.watchlist
    kinds = [site.kind for site in watchlist.sites for _ in site.features]
    columns = [i for i, kind in enumerate(kinds) if kind == "residual"]
    arrays = _matched(evidence, reference)
    got, expected, above, projections = (array[:, columns] for array in arrays)
    is_observed = ~np.isnan(got).any(axis=1)
    num_lacking = int((~is_observed).sum())
    got, expected, above = got[is_observed], expected[is_observed], above[is_observed]
    scale = np.maximum(np.abs(projections).max(axis=0), 1e-12)
    is_flipped = (got != 0) != (expected != 0)
    errors = np.where(is_flipped, np.abs(above), np.abs(got - expected)) / scale
    worst = float(errors.max(initial=0.0))
    dtype = evidence.after.workers[0].dtype
    tolerance = TOLERANCES.get(dtype, TOLERANCES["bfloat16"])
    faults = [f"{num_lacking} rows have no scores"] if num_lacking else []
    if worst > tolerance:
        column = watchlist.columns[columns[int(errors.max(axis=0).argmax())]]
        faults.append(f"{column} is off by {worst:.1e} (tolerance {tolerance:g} in {dtype})")
    good = (
        f"{len(got)} rows of {got.shape[1]} columns: largest relative error {worst:.1e} "
        f"(tolerance {tolerance:g} in {dtype}), {is_flipped.sum()} gates flipped by rounding"
        f"{', those of routers left out' if len(columns) < len(kinds) else ''}"
    )
    return _check(
        "values", faults, good, rows=len(got), error=worst, tolerance=tolerance,
        flips=int(is_flipped.sum()), active=int((expected != 0).sum()),
    )  # fmt: skip


def rows(evidence: Evidence) -> Check:
    """What was computed in a batch lies nearest to the same request and position computed alone."""
    ours = list(evidence.setting.signature)
    got = np.concatenate([seen.scores() for seen in evidence.together]).astype(np.float64)
    alone = np.concatenate([seen.scores() for seen in evidence.alone]).astype(np.float64)
    scale = np.nanmax(np.abs(alone[:, ours]), axis=0, initial=1e-12)
    own, other = _distances(got[:, ours] / scale, alone[:, ours] / scale)
    is_known = ~np.isnan(own)
    num_wrong = int((own[is_known] > np.maximum(other[is_known], 1e-6)).sum())
    faults = [f"{n} rows have no scores"] if (n := int((~is_known).sum())) else []
    if num_wrong:
        faults.append(f"{num_wrong} of {len(own)} rows are those of another request or position")
    worst = float(np.nanmax(own, initial=0.0))
    good = (
        f"{len(own)} rows of {len(evidence.together)} requests in one batch{_chunks(evidence)}, "
        f"each its own; largest difference to running alone {worst:.1e}"
    )
    return _check("rows", faults, good, rows=len(own), misattributed=num_wrong, difference=worst)


def prefix_cache(evidence: Evidence) -> Check:
    """What vLLM takes from its prefix cache has the scores of what was computed."""
    if not evidence.before.prefix_caching:
        return Check("prefix cache", "ok", "vLLM's prefix cache is off", {"cached": 0})
    if not evidence.repeated:
        detail = f"no prompt of this model fills a block of {evidence.before.block_size} tokens"
        return Check("prefix cache", "unproven", detail)
    first, second = evidence.repeated
    num_cached = second.answer.num_cached
    faults = [] if num_cached else ["vLLM computed the same prompt again"]
    num_known = second.record.coverage.cached if second.record else 0
    if num_known != num_cached:
        faults.append(f"vLLM had {num_cached} tokens cached, the monitor knows {num_known} of them")
    cached = slice(max(0, num_cached - 1))  # the first position has no scores
    if not np.array_equal(first.scores()[cached], second.scores()[cached]):
        faults.append("their scores are not those of the request that computed them")
    good = f"{num_cached} tokens of a repeated prompt, with the scores of its first run"
    return _check("prefix cache", faults, good, cached=num_cached)


def ledger(evidence: Evidence) -> Check:
    """Every row of every request is accounted for: scheduled = observed + cached."""
    faults, scheduled, cached = [], 0, 0
    for seen in evidence.all_seen:
        if seen.record is None:
            faults.append(f"request {seen.ask.id} is not in the store")
            continue
        account = seen.record.coverage
        scheduled, cached = scheduled + account.scheduled, cached + account.cached
        if account.scheduled != account.observed + account.cached + account.num_unseen:
            faults.append(f"request {seen.ask.id} does not add up: {account}")
        elif account.unseen or account.scheduled < seen.num_rows:
            reasons = [f"{n} {why}" for why, n in account.unseen.items()]
            missing = ", ".join(reasons) or f"{seen.num_rows - account.scheduled} not asked for"
            faults.append(f"request {seen.ask.id}: of {seen.num_rows} rows unseen: {missing}")
    good = (
        f"{len(evidence.all_seen)} requests: {scheduled} rows scheduled = {scheduled - cached} "
        f"observed + {cached} cached + 0 unseen"
    )
    return _check("ledger", faults, good, scheduled=scheduled, cached=cached)


def cache_key(facts: EngineFacts) -> Check:
    """vLLM cannot take a graph without our taps, or with others, from its compile cache."""
    faults = []
    for worker in facts.workers:
        if not worker.is_keyed:
            faults.append(f"worker {worker.rank}: vLLM's configuration does not name the taps")
        elif not worker.is_key_effective:
            faults.append(f"worker {worker.rank}: vLLM's cache key does not depend on the taps")
    return _check("cache key", faults, "vLLM's key of compiled graphs is another one with the taps")


def monitor(evidence: Evidence) -> Check:
    """An alert of a rule that fires on our requests is stored, once for each."""
    faults = [] if evidence.alert else [f"no alert of {RULE} came into the store"]
    for seen in evidence.all_seen:
        if seen.record and seen.record.coverage.complete and _num_alerts(seen) != 1:
            faults.append(f"request {seen.ask.id} raised {_num_alerts(seen)} alerts, not 1")
    milliseconds = 1000 * evidence.alert_after_s
    good = (
        f"{len(evidence.all_seen)} alerts of as many requests; one was stored "
        f"{milliseconds:.0f} ms after the forward pass of its token"
    )
    return _check("monitor", faults, good, latency_ms=milliseconds)


def _num_alerts(seen: Seen) -> int:
    counts = seen.record.counts.get(RULE) if seen.record else None
    return counts.emitted if counts else 0


def _check(name: str, faults: Sequence[str], good: str, **numbers: float) -> Check:
    """Failed where there are faults; of many, the first few are named."""
    if not faults:
        return Check(name, "ok", good, numbers)
    more = [f"and {len(faults) - _MAX_FAULTS} more"] if len(faults) > _MAX_FAULTS else []
    return Check(name, "failed", "; ".join([*faults[:_MAX_FAULTS], *more]), numbers)


def _matched(evidence: Evidence, reference: list[Reference]) -> tuple[Doubles, ...]:
    """Rows of scores as stored, and as they should be, with the reference's other arrays; each
    [rows, columns].
    """
    parts = []
    alone = dict(zip((seen.ask.id for seen in evidence.together), evidence.alone, strict=True))
    for batched, expected in zip(referenced(evidence), reference, strict=True):
        for seen in (batched, alone[batched.ask.id]):
            which = slice(1, seen.num_rows)
            arrays = (expected.scores, expected.above, expected.projections)
            parts.append((seen.scores(), *(array[which] for array in arrays)))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _distances(got: Doubles, expected: Doubles) -> tuple[Doubles, Doubles]:
    """Of each row to its own expectation, and to the nearest of the others: the largest difference
    in any column.
    """
    own = np.abs(got - expected).max(axis=1)
    other = np.empty_like(own)
    for i, row in enumerate(got):
        distances = np.abs(expected - row).max(axis=1)
        distances[i] = np.inf
        other[i] = np.nanmin(distances, initial=np.inf)
    return own, other


def _chunks(evidence: Evidence) -> str:
    longest = max(len(seen.ask.prompt) for seen in evidence.together)
    step = evidence.before.max_step_tokens
    return f" (a prompt of {longest} tokens in chunks of {step})" if longest > step else ""
