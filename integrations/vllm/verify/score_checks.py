"""Judge the evidence: whether scores are right, and belong where they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from saeguard.integrations.vllm.verify.check import Check, judged
from saeguard.integrations.vllm.verify.reference import NoReferenceError, Reference
from saeguard.integrations.vllm.verify.session import Evidence, Seen

TOLERANCES = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
"""By the model's dtype: how far a score may be from Hugging Face's in float32, by the largest
projection of any token on the feature's direction. Rounding explains no more."""

MAX_REFERENCE_TOKENS = 1024
"""Longer sequences are not computed by Hugging Face, which would take long without a GPU."""

Doubles = npt.NDArray[np.float64]


def referenced(evidence: Evidence) -> list[Seen]:
    """Whose scores Hugging Face is asked for."""
    return [s for s in evidence.together if len(s.token_ids) <= MAX_REFERENCE_TOKENS]


def values(evidence: Evidence, reference: list[Reference] | NoReferenceError) -> Check:
    """Scores equal those of Hugging Face, of prompts and of answers, together and alone."""
    if isinstance(reference, NoReferenceError):
        return Check("values", "unproven", str(reference))
    watchlist = evidence.setting.watchlist
    kinds = [site.hook_point.kind for site in watchlist.sites for _ in site.features]
    columns = [i for i, kind in enumerate(kinds) if kind != "router"]
    arrays = _matched(evidence, reference)
    got, expected, above, projections = (array[:, columns] for array in arrays)
    is_observed = ~np.isnan(got).any(axis=1)
    num_lacking = int((~is_observed).sum())
    got, expected, above = got[is_observed], expected[is_observed], above[is_observed]
    scale = np.maximum(np.abs(projections).max(axis=0), 1e-12)
    is_flipped = (got != 0) != (expected != 0)
    errors = np.where(is_flipped, np.abs(above), np.abs(got - expected)) / scale
    worst = float(errors.max(initial=0.0))
    # Ours are never gated, so that all of their scores count.
    ours = [i for i, column in enumerate(columns) if column in evidence.setting.signature]
    gain = _gain(got[:, ours], expected[:, ours])
    dtype = evidence.after.workers[0].dtype
    tolerance = TOLERANCES.get(dtype, TOLERANCES["bfloat16"])
    faults = [f"{num_lacking} rows have no scores"] if num_lacking else []
    if worst > tolerance:
        column = watchlist.columns[columns[int(errors.max(axis=0).argmax())]]
        faults.append(f"{column} is off by {worst:.1e} (tolerance {tolerance:g} in {dtype})")
    if abs(gain - 1) > tolerance / 10:  # rounding goes both ways, this does not
        faults.append(f"scores are {gain:.4f} times what they should be")
    good = (
        f"{len(got)} rows of {got.shape[1]} columns: largest relative error {worst:.1e} "
        f"(tolerance {tolerance:g} in {dtype}), {is_flipped.sum()} gates flipped by rounding"
        f"{', those of routers left out' if len(columns) < len(kinds) else ''}"
    )
    return judged(
        "values", faults, good, rows=len(got), error=worst, tolerance=tolerance, gain=gain,
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
    return judged("rows", faults, good, rows=len(own), misattributed=num_wrong, difference=worst)


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
    return judged("prefix cache", faults, good, cached=num_cached)


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


def _gain(got: Doubles, expected: Doubles) -> float:
    """By what the expected scores are multiplied, by least squares."""
    energy = float((expected * expected).sum())
    return float((got * expected).sum()) / energy if energy else 1.0


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
