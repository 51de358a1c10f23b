"""A capture records what the features of probes with heads are, and not their rows."""

from __future__ import annotations

from pathlib import Path

from probe_files import compiled, random_probes

from saeguard.integrations.vllm.capture.watched import watched

MODEL = Path(__file__).resolve().parents[3] / "examples" / "organism" / "artifacts" / "model"
PROBES = random_probes(192)


def test_the_rows_of_heads_are_watched_and_their_scores_kept(tmp_path: Path):
    ordinary = compiled(tmp_path, PROBES)
    for hook_points in ([], ["blocks.2.hook_resid_post"]):
        watch = watched([str(tmp_path / "rules.yaml")], hook_points, str(MODEL))
        watchlist = watch.compile(tmp_path)
        assert watchlist.heads == {}, "the monitor would keep no rows"
        assert {*ordinary.columns} <= {*watchlist.columns}
        kept = [name for name in watch.columns if not name.startswith("blocks.")]
        assert sorted(kept) == sorted(PROBES)
        assert watch.of_rules.digest == ordinary.digest
