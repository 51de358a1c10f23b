"""A YAML file as plain data that remembers where everything was written.

PyYAML's `compose` yields nodes with marks. One walk over them builds the data, files every node
under its path (`("rules", 0, "for")`) and refuses what YAML 1.1 would silently turn into something
else: duplicate keys, keys without a value, merge keys, keys like `no` (a boolean), and numbers like
`22:22` (1342) or `1_000`.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from saeguard.rules.errors import Location, RuleError, RuleErrors
from saeguard.rules.model import Change

MAX_BYTES = 8 * 2**20
MAX_DEPTH = 32  # rule files need 6; the C composer recurses, and overflows its stack near 100 000
MAX_NODES = 500_000  # counted after aliases are expanded: the bound that stops an alias bomb

KeyPath = tuple[str | int, ...]

_PLAIN_NUMBER = re.compile(r"[-+]?(0|[1-9]\d*|\d*\.\d+|\d+\.)([eE][-+]\d+)?|[-+]?\.(inf|nan)", re.I)
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # what ends a line in YAML
_COLLECTION_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_TEXT_TAG = "tag:yaml.org,2002:str"
_MERGE_TAG = "tag:yaml.org,2002:merge"


@dataclass(slots=True)
class Document:
    """One file: its bytes, its data, and what was wrong with it as YAML."""

    path: Path
    content: bytes
    text: str
    data: dict[str, Any] = field(default_factory=dict)
    errors: list[RuleError] = field(default_factory=list)
    values: dict[KeyPath, yaml.Node] = field(default_factory=dict)
    keys: dict[KeyPath, yaml.Node] = field(default_factory=dict)
    grafts: dict[KeyPath, tuple[Document, KeyPath]] = field(default_factory=dict)
    changes: dict[KeyPath, list[Change]] = field(default_factory=dict)
    """Path of a rule -> what overlays did to it."""

    def graft(
        self, path: KeyPath, source: Document, source_path: KeyPath, value: Any = None
    ) -> None:
        """Put what `source` has at `source_path` (or `value`) at `path`, in place of what is there.

        From now on what is said about that part is located in `source`. The mapping above `path`
        must exist, or else the list, and `path` is the place after its end.
        """
        value = copy.deepcopy(source.lookup(source_path) if value is None else value)
        owner: Any = self.lookup(path[:-1])
        if isinstance(owner, list):
            owner.append(value)
        else:
            if isinstance(owner.get(path[-1]), dict | list):
                self._forget_grafts_in(path)
            owner[path[-1]] = value
        self.grafts[path] = source, source_path

    def _forget_grafts_in(self, path: KeyPath) -> None:
        for below in [each for each in self.grafts if each[: len(path)] == path]:
            del self.grafts[below]

    def lookup(self, path: KeyPath) -> Any:
        """The data at `path`."""
        value: Any = self.data
        for part in path:
            value = value[part]
        return value

    def has(self, path: KeyPath) -> bool:
        """Whether there is something at `path`, in the file or grafted."""
        document, path = self._origin(path)
        return path in document.values

    def written_at(self, path: KeyPath) -> str:
        """The text of the scalar at `path`, before YAML made `true` of a `yes`."""
        document, path = self._origin(path)
        return str(document._nearest(path).value)

    def value_at(self, path: KeyPath, offset: int | None = None) -> Location:
        """Where the value at `path` starts, or the character `offset` of it when it is a text."""
        document, path = self._origin(path)
        node = document._nearest(path)
        start = document._location(node.start_mark)
        if offset is None or not isinstance(node, yaml.ScalarNode):
            return start
        end = _source_index(document.text, node, offset)
        *lines, last = _BREAK.split(document.text[node.start_mark.index : end])
        column = len(last) + (1 if lines else start.column)
        return Location(document.path, start.line + len(lines), column)

    def key_at(self, path: KeyPath) -> Location:
        """Where the key at `path` is written; a list item has no key: its value's place."""
        document, path = self._origin(path)
        node = document.keys.get(path) or document._nearest(path)
        return document._location(node.start_mark)

    def _origin(self, path: KeyPath) -> tuple[Document, KeyPath]:
        """The document in which the part at `path` is written, and its path there."""
        for end in range(len(path), 0, -1) if self.grafts else ():
            if graft := self.grafts.get(path[:end]):
                return graft[0], graft[1] + path[end:]
        return self, path

    def _nearest(self, path: KeyPath) -> yaml.Node:
        """The node at `path`, or the one that lacks it."""
        while path not in self.values:
            path = path[:-1]
        return self.values[path]

    def _location(self, mark: yaml.error.Mark) -> Location:
        return Location(self.path, mark.line + 1, mark.column + 1)


def read_document(path: Path) -> Document:
    """Read one YAML file whose top level is a mapping.

    Raises:
        RuleErrors: there is no data to go on with. Lesser errors are left in `Document.errors`.
    """
    try:
        content = _read_bytes(path)
        return _Walk(Document(path, content, content.decode("utf-8-sig"))).run()
    except OSError as error:
        raise RuleErrors([Location(path).error(error.strerror or str(error))]) from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RuleErrors([Location(path, line).error("the file is not UTF-8 text")]) from error
    except yaml.MarkedYAMLError as error:
        where = _within(content, path, error.problem_mark or error.context_mark)
        raise RuleErrors([where.error(f"not YAML: {_problem(error, content)}")]) from error
    except yaml.reader.ReaderError as error:
        line = content[: error.position].count(b"\n") + 1
        raise RuleErrors([Location(path, line).error(f"not YAML: {error.reason}")]) from error


def _problem(error: yaml.MarkedYAMLError, content: bytes) -> str:
    """The parser's words, or plainer ones for what people often do."""
    if error.problem == "found character that cannot start any token" and error.problem_mark:
        lines = _BREAK.split(content.decode("utf-8-sig"))
        if lines[error.problem_mark.line].lstrip(" ").startswith("\t"):
            return "a tab; YAML wants spaces"
    if error.problem == "but found another document":
        return "a second document begins at ---; write a file for each"
    return str(error.problem)


def _within(content: bytes, path: Path, mark: yaml.error.Mark | None) -> Location:
    """The mark's place; the parser puts the end of a file one line too low."""
    if mark is None:
        return Location(path)
    lines = _BREAK.split(content.decode("utf-8-sig"))
    if mark.line >= len(lines):
        return Location(path, len(lines), len(lines[-1]) + 1)
    return Location(path, mark.line + 1, mark.column + 1)


def _read_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise RuleErrors([Location(path).error(f"the file is larger than {MAX_BYTES:,} bytes")])
    return content


class _Walk:
    """From nodes to data."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.merges = False

    def run(self) -> Document:
        self._refuse_deep(self.document.text)
        self.loader = yaml.CSafeLoader(self.document.text)
        root = self.loader.get_single_node()
        if root is None:
            raise RuleErrors([Location(self.document.path).error("the file is empty")])
        if not isinstance(root, yaml.MappingNode):
            raise RuleErrors([self._error(root, "expected a mapping at the top level")])
        self.document.data = self._read(root, ())
        if self.merges:
            raise RuleErrors(self.document.errors)  # without what they stand for, much is missing
        return self.document

    def _refuse_deep(self, text: str) -> None:
        depth = 0
        for event in yaml.parse(text, yaml.CSafeLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_DEPTH:
                raise RuleErrors([self._error(event, f"nested deeper than {MAX_DEPTH} levels")])

    def _read(self, node: yaml.Node, path: KeyPath) -> Any:
        values = self.document.values
        values[path] = node
        if len(values) > MAX_NODES:
            raise RuleErrors([self._error(node, f"more than {MAX_NODES:,} values in the file")])
        if len(path) > MAX_DEPTH:
            raise RuleErrors([self._error(node, "an alias contains itself")])
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if node.tag not in _COLLECTION_TAGS:
            self._report(node, f"the tag {node.tag} is not allowed")
        if isinstance(node, yaml.SequenceNode):
            return [self._read(item, (*path, i)) for i, item in enumerate(node.value)]
        return self._mapping(node, path)

    def _mapping(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        before: yaml.Node | None = None
        for key_node, value_node in node.value:
            if before is not None and (number := _split_number(before, key_node)):
                self._report(before, f"write {number} with a decimal point; a comma ends the value")
                continue
            before = value_node
            key = self._key(key_node)
            if key is None:
                continue
            if (*path, key) in self.document.keys:
                self._report(key_node, f"duplicate key '{key}'")
                continue
            self.document.keys[*path, key] = key_node
            num_errors = len(self.document.errors)
            value = self._read(value_node, (*path, key))
            if value is None and len(self.document.errors) > num_errors:
                continue  # it is unreadable, and that has been said
            if value is None:
                self._report(key_node, f"'{key}' has no value")
            else:
                data[key] = value
        return data

    def _key(self, node: yaml.Node) -> str | None:
        if node.tag == _MERGE_TAG:
            self._report(node, "merge keys (<<) are not supported; repeat the keys")
            self.merges = True
            return None
        key = self._scalar(node) if isinstance(node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            hint = "; put it in quotes" if isinstance(key, bool | date) else ""
            self._report(node, f"a key must be text; YAML reads this one as {describe(key)}{hint}")
            return None
        return key

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag == _TEXT_TAG:
            return node.value
        try:
            value = self.loader.construct_object(node)
        except ValueError as error:
            self._report(node, f"bad value: {str(error).partition(';')[0]}")
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if isinstance(value, int) and value.bit_length() > 64:
            self._report(node, "a whole number with too many digits")
            return None
        if is_number and not _PLAIN_NUMBER.fullmatch(node.value):
            self._report(node, f"YAML reads {node.value} as the number {value}; write that number")
        return value

    def _report(self, node: yaml.Node, message: str) -> None:
        self.document.errors.append(self._error(node, message))

    def _error(self, at: yaml.Node | yaml.Event, message: str) -> RuleError:
        mark: Any = at.start_mark
        return Location(self.document.path, mark.line + 1, mark.column + 1).error(message)


def _split_number(value: yaml.Node, key: yaml.Node) -> str:
    """The number that was meant where braces hold `3,5`: a value and a key; else nothing."""
    is_one_word = value.end_mark.index + 1 == key.start_mark.index
    text = f"{value.value}.{key.value}"
    return text if is_one_word and re.fullmatch(r"[-+]?\d+\.\d+", text) else ""


def describe(value: object) -> str:
    """A YAML value in words, for error messages."""
    match value:
        case None:
            return "nothing"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {value[:60]!r}"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return f"a {type(value).__name__}"


def _source_index(text: str, node: yaml.ScalarNode, offset: int) -> int:
    """Index in the file of character `offset` of a scalar.

    Folding and indentation change white space only, so the n-th visible character of the value is
    the n-th visible one of the source, after the quote or block header. Escapes break that: then
    the answer is the scalar's start.
    """
    start, end = node.start_mark.index, node.end_mark.index
    if node.style == '"' and "\\" in text[start:end]:
        return int(start)
    if node.style in ("|", ">"):
        start = text.index("\n", start)
    elif node.style:
        start += 1
    nth = len(re.findall(r"\S", node.value[:offset]))
    visible = [match.start() for match in re.finditer(r"\S", text[start:end])]
    return int(start) + visible[nth] if nth < len(visible) else int(end)
