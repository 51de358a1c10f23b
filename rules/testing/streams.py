"""From the blocks of a test's stream to the scores of a request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import yaml

from saeguard.rules.engine.aggregates import Scores
from saeguard.rules.errors import Location, RuleError, did_you_mean
from saeguard.rules.loading.document import Document, KeyPath
from saeguard.rules.model import RuleSet
from saeguard.rules.phases import Phase
from saeguard.rules.recordings.offline import RecordedRequest
from saeguard.rules.scope import RequestContext
from saeguard.rules.testing.series import MAX_TOKENS, SeriesError, parse_series
from saeguard.rules.testing.syntax import BlockEntry


class StreamReader:
    """Reads streams of one document; what is wrong with them is added to `errors`, and what is
    in vain to `warnings`.
    """

    def __init__(self, document: Document, ruleset: RuleSet, errors: list[RuleError]) -> None:
        self._document = document
        self._ruleset = ruleset
        self._errors = errors
        self._columns = ruleset.used_features()
        self.warnings: list[RuleError] = []

    def read(
        self, path: KeyPath, blocks: Sequence[BlockEntry], context: RequestContext, time_ns: int
    ) -> RecordedRequest:
        """The request whose stream stands at `path`. A feature that no block lists is 0."""
        parts: list[Scores] = []
        for i, block in enumerate(blocks):
            parts.append(self._block((*path, i), block))
            if sum(map(len, parts)) > MAX_TOKENS:
                where = self._document.value_at((*path, i))
                self._report(where, f"a stream of more than {MAX_TOKENS:,} tokens")
                parts = [part[:0] for part in parts]
                break
        lengths = [len(part) for part in parts]
        codes = [Phase.parse(block.phase) for block in blocks[: len(parts)]]
        return RecordedRequest(
            context=context,
            columns=self._columns,
            scores=np.concatenate(parts),
            positions=np.arange(sum(lengths), dtype=np.int32),
            phases=np.repeat(np.array(codes, np.uint8), lengths),
            time_ns=time_ns,
        )

    def _block(self, path: KeyPath, block: BlockEntry) -> Scores:
        """[tokens, columns]"""
        series = {name: self._series((*path, "features", name)) for name in block.features}
        lengths = {name: len(scores) for name, scores in series.items() if scores is not None}
        if block.tokens is not None:
            lengths = {"tokens": min(block.tokens, MAX_TOKENS + 1), **lengths}
        if not lengths:
            if not series:
                self._report(self._document.value_at(path), "a block needs `features` or `tokens`")
            return np.zeros((0, len(self._columns)), np.float32)
        given_by, num_tokens = next(iter(lengths.items()))
        block_scores = np.zeros((num_tokens, len(self._columns)), np.float32)
        for name, scores in series.items():
            column = self._column((*path, "features", name))
            if scores is None or column is None:
                continue
            if len(scores) != num_tokens:
                where = self._document.value_at((*path, "features", name))
                says = f"'{given_by}' has {num_tokens:,}"
                self._report(where, f"{name}: a series of {len(scores):,} tokens, but {says}")
            else:
                block_scores[:, column] = scores
        return block_scores

    def _column(self, path: KeyPath) -> int | None:
        name = str(path[-1])
        if name in self._columns:
            return self._columns.index(name)
        where = self._document.key_at(path)
        if name in self._ruleset.features:  # a signal that is deleted must not break its tests
            self.warnings.append(where.error(f"no rule reads the feature '{name}'"))
        else:
            hint = did_you_mean(name, self._ruleset.features)
            self._report(where, f"unknown feature '{name}'{hint}")
        return None

    def _series(self, path: KeyPath) -> Scores | None:
        node = self._document.values[path]
        if not isinstance(node, yaml.SequenceNode):
            return self._scores(path)
        if not node.value:
            self._report(self._document.value_at(path), "an empty series")
            return None
        parts = [self._scores((*path, i)) for i in range(len(node.value))]
        scores = [part for part in parts if part is not None]
        return np.concatenate(scores) if len(scores) == len(parts) else None

    def _scores(self, path: KeyPath) -> Scores | None:
        """Of the text as it is written: YAML would read 0x40 as the number 64."""
        node = self._document.values[path]
        if not isinstance(node, yaml.ScalarNode):
            self._report(self._document.value_at(path), "expected a series, such as 0x40 5 5 7")
            return None
        try:
            return parse_series(node.value)
        except SeriesError as error:
            self._report(self._document.value_at(path, error.offset), str(error))
            return None

    def _report(self, where: Location, message: str) -> None:
        self._errors.append(where.error(message))
