"""What was found of scores, in sentences and tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table

from saeguard.integrations.drift.fit import Estimate, Fit
from saeguard.integrations.drift.live import LiveDrift
from saeguard.monitor.cli.alert_views import safe
from saeguard.monitor.cli.recordings import indented
from saeguard.rules import RuleSet
from saeguard.rules.drift.concerned import rules_of, thresholds_of
from saeguard.rules.drift.results import Compared, Criteria, Drift, Share, Verdict

_VERDICTS: dict[Verdict, str] = {
    "moved": "moved",
    "small": "moved a little",
    "none": "-",
    "too_little": "too little data",
    "silent": "never active",
}
_ORDER = tuple(_VERDICTS)


def live_report(found: LiveDrift, ruleset: RuleSet, criteria: Criteria) -> Iterator[RenderableType]:
    """All that is to be said, the gist last."""
    compared = found.compared
    yield _sizes(found)
    yield ""
    yield indented(_table(compared.drifts, ruleset))
    yield ""
    yield "of the tokens, with 95 % intervals where requests are known; moved: the largest part of"
    yield "a feature's activity that is elsewhere now; seen from: what these data would have shown"
    yield "four times in five; q: false-discovery rate, requests exchanged between the sides"
    yield ""
    for drift in compared.drifts:
        if drift.verdict == "moved":
            yield from (safe(moved_sentence(drift, ruleset)), "")
    if found.fit is not None:
        yield from (safe(fit_sentence(found.fit)), "")
    for sentence in _rest(compared, criteria):
        yield safe(sentence)
    yield safe(conclusion(found))


def _sizes(found: LiveDrift) -> str:
    compared = found.compared
    said = f"{compared.num_reference} requests or groups then, {compared.num_recent} now"
    if compared.num_pairs:
        said += f"; {compared.num_pairs} are on both sides and are compared with themselves"
    if found.knows_topics:
        said += "; compared within each source and label"
    if num := sum(compared.left_out.values()):
        names = ", ".join(compared.left_out)
        said += f"; {num} requests are left out, of what is on one side only: {names}"
    return said


def _table(drifts: Sequence[Drift], ruleset: RuleSet) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("feature", overflow="fold")
    for title in ("phase", "above 0 then", "now", "at threshold then", "now", "moved"):
        table.add_column(title, justify="left" if title == "phase" else "right")
    for title in ("seen from", "PSI", "q"):
        table.add_column(title, justify="right")
    table.add_column("")
    for drift in sorted(drifts, key=lambda d: (_ORDER.index(d.verdict), -d.moved)):
        threshold = _lowest(drift)
        table.add_row(
            safe(drift.feature),
            str(drift.phase),
            _share(drift.reference.density),
            _share(drift.recent.density),
            *(
                "" if threshold is None else _share(side.above[threshold])
                for side in (drift.reference, drift.recent)
            ),
            f"{drift.moved:.0%}",
            _percent(drift.detectable),
            f"{drift.stability_index:.2f}",
            f"{drift.q_value:.2g}",
            _VERDICTS[drift.verdict],
        )
    return table


def _lowest(drift: Drift) -> float | None:
    return min(drift.reference.above, default=None)


def _share(share: Share) -> str:
    if share.low is None or share.high is None:
        return f"{100 * share.value:.3g}%"
    return f"{100 * share.value:.3g}% ({100 * share.low:.2g} to {100 * share.high:.2g})"


def _percent(part: float) -> str:
    return f"{part:.0%}" if part <= 1 else "> 100%" if math.isfinite(part) else "-"


def moved_sentence(drift: Drift, ruleset: RuleSet) -> str:
    """Which feature, by how much, and which rules are concerned."""
    before, after = drift.reference, drift.recent
    parts = [
        f"{drift.feature} has moved in the phase {drift.phase}: above 0 on "
        f"{after.density.value:.2%} of the tokens, {before.density.value:.2%} before"
    ]
    for threshold in thresholds_of(ruleset)[drift.feature]:
        then, now = before.above[threshold.score].value, after.above[threshold.score].value
        parts.append(
            f"at {threshold.score:g} or more, which {threshold.rule} asks for ({threshold.signal}),"
            f" on {now:.3%}, {then:.3%} before{_times(then, now)}"
        )
    rules = ", ".join(rules_of(ruleset, drift.feature))
    return (
        f"{'; '.join(parts)}. {drift.moved:.0%} of its activity is elsewhere (q "
        f"{drift.q_value:.2g}). Concerned: {rules}."
    )


def _times(then: float, now: float) -> str:
    return f", {now / then:.2g} times as often" if then else ""


def fit_sentence(fit: Fit) -> str:
    """What the SAE explains of both sides."""
    loss = fit.explained_change
    return (
        f"The SAE {fit.sae} explains {_of(fit.explained[0])} of the variance at {fit.hook_point} "
        f"then and {_of(fit.explained[1])} now (a change of {loss.value:+.1%}, {loss.low:+.1%} to "
        f"{loss.high:+.1%}), with {fit.l0[0].value:.1f} and {fit.l0[1].value:.1f} active features "
        f"a token ({fit.l0_ratio.value:.2f} times as many, {fit.l0_ratio.low:.2f} to "
        f"{fit.l0_ratio.high:.2f}): {'it fits worse' if fit.has_moved else 'it fits as before'}."
    )


def _of(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"


def _rest(compared: Compared, criteria: Criteria) -> Iterator[str]:
    of = {verdict: [d for d in compared.drifts if d.verdict == verdict] for verdict in _ORDER}
    if small := of["small"]:
        yield (
            f"{_names(small)}: more than chance, but less than {criteria.material:.0%} of their "
            "activity (--material)."
        )
    for drift in of["too_little"]:
        sides = (drift.reference.statistics, drift.recent.statistics)
        numbers = " and ".join(str(side.num_groups) for side in sides)
        seen = "no change"
        if drift.detectable <= 1:
            seen = f"only a change of {drift.detectable:.0%} of its activity"
        yield (
            f"{drift.feature} in {drift.phase}: {numbers} requests are too few to say that it has "
            f"not moved: {seen} would surely have been seen. To see one of {criteria.detect:.0%} "
            f"(--detect) it takes about {drift.num_needed:,} requests on each side."
        )
    if silent := of["silent"]:
        yield f"{_names(silent)}: not active on either side, which tells nothing."
    if compared.unobserved:
        names = ", ".join(f"{feature} in {phase}" for feature, phase in compared.unobserved)
        yield f"{names}: observed on one side only, and not compared."


def _names(drifts: Sequence[Drift]) -> str:
    return ", ".join(f"{drift.feature} in {drift.phase}" for drift in drifts)


def conclusion(found: LiveDrift) -> str:
    """What it means, and what to do."""
    compared = found.compared
    if not found.has_moved:
        if found.is_unsure:
            return (
                "No drift was found, and of some features the data cannot tell that there is none."
            )
        if any(drift.verdict == "small" for drift in compared.drifts):
            return "No drift that matters."
        return "No drift: the scores are distributed as they were when the rules were calibrated."
    same_requests = compared.num_pairs > 0.5 * min(compared.num_reference, compared.num_recent)
    cause = (
        "The same requests were run on both sides, so it is the model that has changed"
        if same_requests
        else "Either the model has changed, or what it is asked has; compared within sources "
        "(--data), or by the same requests run again (saeguard capture), the two can be told apart"
    )
    return (
        f"{cause}. A model that was fine-tuned, quantised or is served with a LoRA moves away from "
        "what SAEs and probes were trained on: thresholds no longer mean what they meant. Capture "
        "anew (saeguard capture), set thresholds again (saeguard calibrate), and look at what the "
        "SAE still explains (--sae); where it fits worse, features need to be chosen or trained "
        "anew."
    )
