"""Judge the evidence: whether the taps run, nothing is lost, and alerts arrive."""

from __future__ import annotations

from saeguard.integrations.vllm.verify.check import Check, judged
from saeguard.integrations.vllm.verify.protocol import EngineFacts
from saeguard.integrations.vllm.verify.reference import NoReferenceError, Reference
from saeguard.integrations.vllm.verify.score_checks import prefix_cache, rows, values
from saeguard.integrations.vllm.verify.session import Evidence, Seen
from saeguard.integrations.vllm.verify.setting import RULE


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
    return judged("taps", faults, good, taps=num_taps, steps=num_steps)


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
    return judged("ledger", faults, good, scheduled=scheduled, cached=cached)


def cache_key(facts: EngineFacts) -> Check:
    """vLLM cannot take a graph without our taps, or with others, from its compile cache."""
    faults = []
    for worker in facts.workers:
        if not worker.is_keyed:
            faults.append(f"worker {worker.rank}: vLLM's configuration does not name the taps")
        elif not worker.is_key_effective:
            faults.append(f"worker {worker.rank}: vLLM's cache key does not depend on the taps")
    return judged("cache key", faults, "vLLM's key of compiled graphs is another one with the taps")


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
    return judged("monitor", faults, good, latency_ms=milliseconds)


def _num_alerts(seen: Seen) -> int:
    counts = seen.record.counts.get(RULE) if seen.record else None
    return counts.emitted if counts else 0
