"""Labels are read from Neuronpedia's exports, offline, and found by their words."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from saeguard.monitor.cli import main
from saeguard.monitor.feature_labels import FeatureLabel, LabelsError, newest, read_labels

SAE = "gemma-2-2b/20-gemmascope-res-16k"


def explanation(
    index: int | str, text: str, date: str = "2025-02-03T10:11:12.000Z"
) -> dict[str, Any]:
    return {
        "modelId": "gemma-2-2b", "layer": "20-gemmascope-res-16k", "index": index,
        "description": text, "typeName": "oai_token-act-pair",
        "explanationModelName": "gpt-4o-mini", "createdAt": date, "embedding": "[0.1]",
    }  # fmt: skip


ROWS = [
    explanation("12", " words about  deception"),
    explanation(7, "Deception and lies, in many contexts"),
    explanation("7", "plans to deceive", "2026-01-01"),
    explanation("9", "the colour blue"),
    explanation("10", ""),
]
LABEL = FeatureLabel(
    SAE, 12, "words about deception", "oai_token-act-pair by gpt-4o-mini", "2025-02-03", ""
)


def write(path: Path, rows: list[Any]) -> Path:
    text = "\n".join(json.dumps(row) for row in rows) + "\n"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_exports_are_read_as_they_are_gzipped_or_in_a_folder(tmp_path: Path):
    folder = tmp_path / "explanations"
    first, second = (
        write(folder / "batch-0.jsonl.gz", ROWS[:2]),
        write(folder / "batch-1.jsonl", ROWS[2:]),
    )
    (folder / "notes.txt").write_text("none")
    assert [(label.index, label.file) for label in read_labels(folder)] == [
        (12, first.name), (7, first.name), (7, second.name), (9, second.name),
    ]  # fmt: skip
    label = next(iter(read_labels(first)))
    assert (label.sae, label.text, label.method, label.date) == (
        LABEL.sae, LABEL.text, LABEL.method, LABEL.date,
    )  # fmt: skip
    assert label.url == f"https://www.neuronpedia.org/{SAE}/12"


def test_a_list_and_features_with_their_explanations_are_read_too(tmp_path: Path):
    (tmp_path / "list.json").write_text(json.dumps(ROWS))
    (tmp_path / "answer.json").write_text(json.dumps({"explanations": ROWS}))
    feature = {"modelId": "m", "layer": "3-x", "index": "5", "explanations": [{"description": "a"}]}
    write(tmp_path / "features.jsonl", [feature])
    assert len(list(read_labels(tmp_path / "list.json"))) == 4
    assert len(list(read_labels(tmp_path / "answer.json"))) == 4
    (label,) = read_labels(tmp_path / "features.jsonl")
    assert (label.sae, label.index, label.text) == ("m/3-x", 5, "a")


def test_of_several_labels_the_newest_counts(tmp_path: Path):
    table = newest(read_labels(write(tmp_path / "a.jsonl", ROWS)))
    assert table[SAE, 7].text == "plans to deceive"
    assert set(table) == {(SAE, 7), (SAE, 9), (SAE, 12)}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"{}\n", r"a\.jsonl:1: is no explanation of a feature: it has no description"),
        ("a.jsonl", b"\n\n{,}\n", r"a\.jsonl:3: is no JSON"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: is no explanation of a feature: it is no JSON object"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: is no JSON"),
        ("a.jsonl", b"\xff\xfe", "cannot be read"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(b"{}\n" * 1000)[:20], "cannot be read"),
        ("a.json", b'{"explanations": 3}', r"a\.json: entry 1: is no explanation"),
        ("a.json", b"3", "is no explanation"),
    ],
)
def test_what_is_no_export_is_refused_with_its_place(
    tmp_path: Path, name: str, content: bytes, message: str
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LabelsError, match=message):
        list(read_labels(tmp_path / name))


def test_what_is_not_there_is_said(tmp_path: Path):
    with pytest.raises(LabelsError, match=r"absent\.jsonl: cannot be read"):
        list(read_labels(tmp_path / "absent.jsonl"))
    with pytest.raises(LabelsError, match=r"has no \.jsonl"):
        list(read_labels(tmp_path))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["saeguard", "features", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def test_search_finds_the_newest_labels_with_all_words(run: Any, tmp_path: Path):
    path = str(write(tmp_path / "a.jsonl.gz", ROWS))
    code, out, _ = run("search", "Words DECEPTION", "--labels", path)
    assert code == 0
    assert (
        out == f"{SAE}/12  words about deception  (oai_token-act-pair by gpt-4o-mini, 2025-02-03)\n"
    )
    code, out, _ = run("search", "dece", "--labels", path, "--limit", "1")
    assert out.startswith(f"{SAE}/7  plans to deceive")
    assert "and 1 more: --limit 2" in out
    code, out, _ = run("search", "colour red", "--labels", path)
    assert (code, "no label in" in out) == (1, True)
    code, _, err = run("search", "x", "--labels", str(tmp_path / "absent"))
    assert (code, "absent: cannot be read" in err) == (2, True)
