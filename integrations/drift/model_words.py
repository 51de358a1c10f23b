"""What was found between two models, in sentences and tables."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table

from saeguard.integrations.drift.between import ModelDrift
from saeguard.integrations.drift.paired import PairedChange, ScoreChange
from saeguard.integrations.drift.weights import ConceptChange, SiteChange, WeightChange
from saeguard.monitor.cli.alert_views import safe
from saeguard.monitor.cli.recordings import indented
from saeguard.rules import RuleSet
from saeguard.rules.drift.concerned import rules_of


def model_report(found: ModelDrift, ruleset: RuleSet) -> Iterator[RenderableType]:
    """All that is to be said, the gist last."""
    if found.weights is not None:
        yield from _weights(found.weights, ruleset)
    if found.paired is not None:
        yield from _paired(found.paired, ruleset)
    if found.left_out:
        yield safe(f"no directions of the residual stream: {', '.join(found.left_out)}")
    yield safe(_conclusion(found))


def _weights(change: WeightChange, ruleset: RuleSet) -> Iterator[RenderableType]:
    for site in change.sites:
        yield safe(site.hook_point, "bold")
        if site.relative == 0:
            yield f"  the {site.num_tensors} tensors that write there are the same"
        else:
            yield (
                f"  the {site.num_tensors} tensors that write there have changed by "
                f"{site.relative:.3%} of their norm"
            )
            yield indented(_concepts(site))
            for concept in site.concepts:
                if concept.has_moved:
                    yield safe(f"  {_concept_sentence(concept, ruleset)}")
        yield ""
    for place, why in change.skipped.items():
        yield safe(f"{place}: {why}")
    if change.num_other_tensors:
        yield (
            f"{change.num_other_tensors} more tensors have changed, which write into the residual "
            "stream only through others: what they move, --activations shows"
        )


def _concepts(site: SiteChange) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("feature", overflow="fold")
    for title in ("times random", "above random", "above other features", "of its own", "q"):
        table.add_column(title, justify="right")
    table.add_column("most in", overflow="fold")
    for concept in site.concepts:
        others = concept.above_others
        table.add_row(
            safe(concept.feature),
            f"{concept.times_random:.2f}",
            f"{concept.above_random:.1%}",
            "" if others is None else f"{others:.1%}",
            f"{concept.relative:.2%}",
            f"{concept.q_value:.2g}",
            safe(concept.most_by),
        )
    return table


def _concept_sentence(concept: ConceptChange, ruleset: RuleSet) -> str:
    return (
        f"{concept.feature}: the weights have moved along it {concept.times_random:.1f} times as "
        f"much as along a random direction, most in {concept.most_by}. Concerned: "
        f"{_rules(ruleset, concept.feature)}."
    )


def _paired(change: PairedChange, ruleset: RuleSet) -> Iterator[RenderableType]:
    yield safe("activations", "bold")
    left_out = f"; {change.num_unpaired} have no counterpart" if change.num_unpaired else ""
    yield (
        f"  {change.num_requests} requests in {change.num_groups} groups were run by both, "
        f"{change.num_tokens:,} tokens are the same{left_out}"
    )
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("feature", overflow="fold")
    for title in ("mean before", "change", "in spreads", "times random", "q"):
        table.add_column(title, justify="right")
    for each in change.changes:
        times = each.times_random
        table.add_row(
            safe(each.feature),
            f"{each.mean_before:.3f}",
            f"{each.change:+.3f} ({each.low:+.3f} to {each.high:+.3f})",
            f"{each.spreads:+.2f}",
            "" if times is None else f"{times:.2f}",
            f"{each.q_value:.2g}",
        )
    yield indented(table)
    for each in change.changes:
        if each.has_moved:
            yield safe(f"  {_score_sentence(each, ruleset)}")
    if not change.has_enough:
        yield f"  {change.num_groups} groups of requests are too few to tell a change from chance"
    yield ""


def _score_sentence(change: ScoreChange, ruleset: RuleSet) -> str:
    side = "higher" if change.change > 0 else "lower"
    return (
        f"{change.feature}: {abs(change.change):.3g} {side} on the same tokens, "
        f"{abs(change.spreads):.2g} of its own spread (q {change.q_value:.2g}). Concerned: "
        f"{_rules(ruleset, change.feature)}."
    )


def _rules(ruleset: RuleSet, feature: str) -> str:
    """That read it, or the probe of which it is one of several rows, as `lie/2`."""
    return ", ".join(rules_of(ruleset, feature.partition("/")[0]))


def _conclusion(found: ModelDrift) -> str:
    if not found.has_moved:
        if found.paired is not None and not found.paired.has_enough:
            return (
                "No watched concept was seen to move; for activations there are too few requests."
            )
        if found.paired is not None and found.paired.has_changed:
            return (
                "Activations have changed more than chance would have it, along each watched "
                "concept by less than a tenth of its spread."
            )
        if found.weights is not None and found.weights.has_changed:
            return (
                "The weights have changed, and along no watched concept more than chance would "
                "have it, as after rounding or noise; what it makes of scores, --activations shows."
            )
        return "No watched concept has moved."
    names = ", ".join(found.moved)
    return (
        f"Moved: {names}. Thresholds that read them were set on another model: capture with the "
        "new one (saeguard capture) and calibrate again (saeguard calibrate)."
    )
