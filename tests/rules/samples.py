"""The example rule file, and edited copies of it."""

from pathlib import Path

ORGANISM = Path(__file__).with_name("organism.yaml")


def edited(folder: Path, *edits: tuple[str, str], name: str = "rules.yaml") -> Path:
    """A copy of the example in which the first occurrence of each text is replaced."""
    text = ORGANISM.read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / name
    path.write_text(text)
    return path
