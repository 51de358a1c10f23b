"""The tags that rules may carry: published lists, each of one edition, our own, and a site's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from saeguard.rules.errors import did_you_mean

SITE_TAG = r"site\.[a-z0-9][a-z0-9._-]*"
_FILE = Path(__file__).with_name("tags.yaml")


@dataclass(frozen=True, slots=True)
class TagList:
    """The tags of one namespace."""

    edition: str
    source: str
    tags: Mapping[str, str]
    """Without the namespace -> what it stands for."""


@cache
def tag_lists() -> Mapping[str, TagList]:
    """Namespace -> its list."""
    return {
        namespace: TagList(**entry)
        for namespace, entry in yaml.load(_FILE.read_text(), yaml.CSafeLoader).items()
    }


@cache
def known_tags() -> Sequence[str]:
    """Every tag of the lists, with its namespace."""
    return [f"{namespace}.{tag}" for namespace, each in tag_lists().items() for tag in each.tags]


def tag_error(tag: str) -> str | None:
    """What is wrong with a tag, with the one that was probably meant."""
    if tag in known_tags() or re.fullmatch(SITE_TAG, tag):
        return None
    namespace = tag.partition(".")[0]
    if namespace == "site":
        return f"{tag!r} is not like site.my-tag: lower-case letters, digits, '.', '-' and '_'"
    lists = tag_lists()
    if namespace in lists:
        about = f"{namespace} is {lists[namespace].edition}"
    else:
        about = f"tags are namespace.tag, of {', '.join(lists)}, or site.anything"
    return f"unknown tag {tag!r}{did_you_mean(*_close(tag))}; {about}"


def _close(tag: str) -> tuple[str, Sequence[str]]:
    """The tag as it would be spelled here, and what it may have been meant to be."""
    spelled = re.sub(r"^atlas\.(aml[.-]?)?t", "atlas.aml-t", tag.lower())
    name = spelled.partition(".")[2] or spelled
    same_name = [known for known in known_tags() if known.endswith(f".{name}")]
    return spelled, same_name or known_tags()
