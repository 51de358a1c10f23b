"""The token strip: a request's tokens in a row, coloured by the scores of one feature.

Every line belongs to one phase and starts with its first position. On a terminal the background
tells the score; elsewhere a mark like `[4.2]` behind the token does. Token text is hostile, so
nothing of it reaches the terminal unescaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, isnan

import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.text import Text

from saeguard.monitor.alerts import PHASES, Alert, RequestRecord
from saeguard.monitor.logging import printable
from saeguard.monitor.recordings import phase_codes

# Cividis: its order of lightness is the same to all eyes.
SCALE = ("#00204d", "#31446b", "#666970", "#958f78", "#cab969", "#ffea46")
INKS = ("white", "white", "white", "black", "black", "black")
# Okabe and Ito's palette; the phase is written beside its band as well.
BANDS = {
    "system": "#cc79a7",
    "prompt": "#999999",
    "reasoning": "#56b4e9",
    "answer": "#009e73",
    "tool_call": "#e69f00",
}
VISIBLE = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"})
VALUES_PER_LINE = 10
MARGIN = 20


@dataclass(frozen=True, slots=True)
class Cell:
    """One token as it is shown."""

    position: int
    text: str
    value: float
    """NaN where the token was not observed."""
    phase: str
    ends_line: bool


@dataclass(frozen=True, slots=True)
class TokenStrip:
    """A rich renderable. `context` tokens are shown on either side of the firing one."""

    record: RequestRecord
    alert: Alert
    feature: str
    context: int = 100

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        cells = self._cells()
        if not cells:
            yield Text("no token near the firing one was recorded", style="dim")
            return
        coloured = console.color_system is not None and not console.no_color
        peak = max((cell.value for cell in cells if isfinite(cell.value)), default=0.0)
        yield from self._legend(cells, peak, coloured)
        if not coloured:
            cells = [self._marked(cell, peak) for cell in cells]
        phase = ""
        for line in _lines(cells, options.max_width - MARGIN):
            if coloured and (ruler := self._ruler(line)):
                yield ruler
            yield _margin(line[0], line[0].phase != phase) + self._tokens(line, peak, coloured)
            phase = line[0].phase

    def _cells(self) -> list[Cell]:
        record = self.record
        first = max(0, self.alert.position - self.context - record.first_recorded)
        last = self.alert.position + self.context + 1 - record.first_recorded
        values = record.score_array()[:, record.features.index(self.feature)]
        phases = [PHASES[code] for code in phase_codes(record)]
        return [
            self._cell(row, float(values[row]), phases[row])
            for row in range(first, min(last, len(values)))
        ]

    def _cell(self, row: int, value: float, phase: str) -> Cell:
        position = self.record.first_recorded + row
        if self.record.texts is None:
            number = "-" if isnan(value) else f"{value:.2f}"
            ends_line = position % VALUES_PER_LINE == VALUES_PER_LINE - 1
            return Cell(position, f"{number:>7}", value, phase, ends_line)
        text = self.record.texts[row]
        return Cell(position, visible(text), value, phase, text.endswith("\n"))

    def _legend(self, cells: Sequence[Cell], peak: float, coloured: bool) -> Iterator[Text]:
        first, last = cells[0].position, cells[-1].position
        yield Text.assemble(
            (printable(self.feature), "bold"),
            f": peak {peak:.2f}, tokens {first} to {last} of {self.record.num_tokens}",
        )
        if self.record.texts is None:
            yield Text("capture_text is off, so scores stand in the place of the text", style="dim")
        if coloured:
            steps = [(" ", f"on {colour}") for colour in SCALE]
            yield Text.assemble("0 ", *steps, f" {peak:.2f}   ", ("dim", "dim"), ": not observed")

    def _marked(self, cell: Cell, peak: float) -> Cell:
        """The cell with what colours would tell written behind its text."""
        text = cell.text
        if self.record.texts is not None and isnan(cell.value):
            text = f"{text}[?]"
        elif self.record.texts is not None and _level(cell.value, peak) > 0:
            text = f"{text}[{cell.value:.1f}]"
        if cell.position == self.alert.position:
            text = f">>{text.lstrip()}<<"
        return Cell(cell.position, text, cell.value, cell.phase, cell.ends_line)

    def _ruler(self, line: Sequence[Cell]) -> Text:
        """A mark over the token that fired and ticks over every tenth; the margin has the first."""
        ruler, column = Text(no_wrap=True, overflow="crop"), MARGIN
        for cell in line:
            if cell.position == self.alert.position:
                ruler.truncate(column, pad=True)
                ruler.append(f"▼ {cell.value:.2f}", "bold")
            elif cell.position % 10 == 0 and column > max(MARGIN, len(ruler)):
                ruler.truncate(column, pad=True)
                ruler.append(f"╷{cell.position}", "dim")
            column += cell_len(cell.text)
        return ruler

    def _tokens(self, line: Sequence[Cell], peak: float, coloured: bool) -> Text:
        text = Text()
        for cell in line:
            text.append(cell.text, self._style(cell, peak) if coloured else None)
        return text

    def _style(self, cell: Cell, peak: float) -> str:
        fired = "bold underline " if cell.position == self.alert.position else ""
        if isnan(cell.value):
            return f"{fired}dim"
        level = _level(cell.value, peak)
        return f"{fired}{INKS[level]} on {SCALE[level]}" if cell.value > 0 else fired


def visible(text: str) -> str:
    """Token text with its whitespace drawn and its control characters escaped."""
    return printable(text.translate(VISIBLE)) or "∅"


def _level(value: float, peak: float) -> int:
    """Which step of the scale, from 0 to `peak`."""
    return int(np.clip(value / peak * len(SCALE), 0, len(SCALE) - 1)) if peak > 0 else 0


def _lines(cells: Sequence[Cell], width: int) -> Iterator[list[Cell]]:
    line: list[Cell] = []
    used = 0
    for cell in cells:
        used += cell_len(cell.text)
        if line and (used > width or cell.phase != line[-1].phase or line[-1].ends_line):
            yield line
            line, used = [], cell_len(cell.text)
        line.append(cell)
    yield line


def _margin(cell: Cell, names_phase: bool) -> Text:
    phase = cell.phase if names_phase else ""
    return Text.assemble(
        (f"{cell.position:>7} ", "dim"), f"{phase:<10}", ("▌", BANDS.get(cell.phase, "")), " "
    )
