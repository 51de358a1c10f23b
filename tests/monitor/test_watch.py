"""Changes of files are noticed, whatever the file system says about them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from saeguard.monitor import watch
from saeguard.monitor.watch import FileWatcher


class Calls:
    """Counts them, and can be waited for."""

    def __init__(self) -> None:
        self.count = 0
        self._called = threading.Event()

    def __call__(self) -> None:
        self.count += 1
        self._called.set()

    def comes(self, within_s: float = 6.0) -> bool:
        called = self._called.wait(within_s)
        self._called.clear()
        return called


@contextmanager
def watching(folder: Path, *rules: str) -> Iterator[Calls]:
    calls = Calls()
    items = [item if item.startswith("pack:") else folder / item for item in rules]
    watcher = FileWatcher(items, folder / "watch.safetensors", calls)
    watcher.start()
    try:
        yield calls
    finally:
        watcher.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rules.yaml").write_text("one")
    (tmp_path / "rules.d").mkdir()
    (tmp_path / "rules.d" / "a.yaml").write_text("one")
    (tmp_path / "watch.safetensors").write_text("one")
    return tmp_path


def _write_rules(folder: Path) -> None:
    (folder / "rules.yaml").write_text("two")


def _add_to_directory(folder: Path) -> None:
    (folder / "rules.d" / "b.yml").write_text("two")


def _replace_watchlist(folder: Path) -> None:
    (folder / "new").write_text("two")
    (folder / "new").replace(folder / "watch.safetensors")


def _delete_directory(folder: Path) -> None:
    (folder / "rules.d" / "a.yaml").unlink()
    (folder / "rules.d").rmdir()


CHANGES = [_write_rules, _add_to_directory, _replace_watchlist, _delete_directory]


@pytest.mark.parametrize("change", CHANGES)
def test_one_change_is_one_call(folder: Path, change: Callable[[Path], None]):
    with watching(folder, "rules.yaml", "rules.d") as calls:
        change(folder)
        assert calls.comes()
        assert not calls.comes(within_s=3.0)


@pytest.mark.parametrize("change", CHANGES)
def test_where_the_system_tells_nothing_files_are_looked_at(
    folder: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
):
    def no_watch(*_: object, **__: object) -> Iterator[object]:
        raise OSError("inotify instance limit reached")

    monkeypatch.setattr(watch, "watch", no_watch)
    with watching(folder, "rules.yaml", "rules.d") as calls:
        change(folder)
        assert calls.comes()


def test_other_files_in_the_directories_are_no_change(folder: Path):
    with watching(folder, "rules.yaml", "rules.d") as calls:
        (folder / "alerts.sqlite").write_text("two")
        (folder / "rules.d" / "notes.md").write_text("two")
        assert not calls.comes(within_s=3.0)


def test_what_cannot_be_read_ends_no_watching(folder: Path):
    with watching(folder, "rules.yaml", "pack:there-is-none", "absent.yaml") as calls:
        (folder / "rules.yaml").unlink()
        (folder / "rules.yaml").symlink_to("rules.yaml")  # a loop
        assert calls.comes()
        (folder / "rules.yaml").unlink()
        _write_rules(folder)
        assert calls.comes()


def test_a_file_that_never_rests_is_taken_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch, "_PATIENCE_S", 1.0)
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.wait(0.05):
            number += 1
            (folder / "rules.yaml").write_text(str(number))

    writer = threading.Thread(target=write)
    with watching(folder, "rules.yaml") as calls:
        writer.start()
        try:
            assert calls.comes(within_s=10.0)
        finally:
            done.set()
            writer.join()
