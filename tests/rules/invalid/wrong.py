"""What is wrong with a file, and what is said about it."""

from dataclasses import dataclass
from pathlib import Path

COMPLETE = Path(__file__).parents[1] / "complete.yaml"


@dataclass(frozen=True)
class Wrong:
    """What is replaced by what, and the one finding that this yields."""

    old: str
    new: str
    at: str
    """Text at whose first occurrence the finding is."""
    message: str
    by_shape: bool = True
    """Whether the shape alone tells, so that the JSON Schema refuses the file, too."""

    def text(self) -> str:
        """The wrong file."""
        text = COMPLETE.read_text()
        assert self.old in text
        return text.replace(self.old, self.new, 1)

    def finding(self) -> str:
        """`line:column: message`"""
        text = self.text()
        index = text.index(self.at)
        column = index - text.rfind("\n", 0, index)
        return f"{text.count(chr(10), 0, index) + 1}:{column}: {self.message}"


def by_name(old: str, new: str, at: str, message: str) -> Wrong:
    """A mistake that only names tell, or numbers that do not fit each other."""
    return Wrong(old, new, at, message, by_shape=False)
