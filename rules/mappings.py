"""Templates of mapping files, which bind the features that packs need to rows of an SAE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saeguard.rules.loading.document import read_document
from saeguard.rules.loading.sources import PACKS, pack_names, rule_files
from saeguard.rules.loading.spelling import UNFILLED

MAPPINGS = PACKS / "mappings"

_HEAD = """\
# Binds what {packs} need. Replace every {unfilled}; this tells which are left:
#   saeguard check {packs} THIS_FILE
#
# index  The row. Search candidates by meaning (on Neuronpedia, say), then try them on texts that
#        have the meaning and on texts that only look like it: take the row that tells them apart.
#        A label is a guess.
#        A probe does as well: {{probe: {{path: probes.safetensors}}, name: NAME, max: {unfilled}}}
# max    The largest score of the row on traffic of yours; thresholds are parts of it.
#
"""
_FEATURE = """\
  {name}: {{sae: *sae, index: {unfilled}, max: {unfilled}, label: "{meaning}"}}
"""


@dataclass(frozen=True, slots=True)
class Pack:
    """A shipped pack, as far as choosing one takes."""

    name: str
    titles: Sequence[str]
    """Of the rules that raise alerts."""
    needs: Mapping[str, str]
    """Feature -> what it must mean."""


def read_pack(name: str) -> Pack:
    """The shipped pack of this name.

    Raises:
        RuleErrors: there is none.
    """
    (path,) = rule_files(f"pack:{name}")
    data = read_document(path).data
    titles = [rule["title"] for rule in data["rules"] if rule.get("emit", True)]
    return Pack(name, titles, data["needs"])


def packs() -> list[Pack]:
    """All shipped packs, by name."""
    return [read_pack(name) for name in pack_names()]


def releases() -> list[str]:
    """The SAE releases there are notes on."""
    return sorted(path.stem for path in MAPPINGS.glob("*.yaml"))


def template(release: str, chosen: Sequence[Pack]) -> str:
    """A mapping file for some packs, with everything in it but the rows and their maxima."""
    needs = {name: meaning for pack in chosen for name, meaning in pack.needs.items()}
    items = " ".join(f"pack:{pack.name}" for pack in chosen)
    return "".join(
        [
            _HEAD.format(packs=items, unfilled=UNFILLED),
            (MAPPINGS / f"{release}.yaml").read_text(),
            f'version: 1\nruleset: {{name: {release}-mapping, version: "1"}}\nfeatures:\n',
            *(
                _FEATURE.format(name=name, meaning=needs[name], unfilled=UNFILLED)
                for name in sorted(needs)
            ),
        ]
    )
