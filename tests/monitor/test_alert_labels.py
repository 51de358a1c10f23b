"""An alert says what the features that it has read are said to mean, and where to look them up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fake_engine import frame_message, start_message, write_rules

from saeguard.monitor import watchlist as wl
from saeguard.monitor.alerting import AlertMaker
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.detector import Detector
from saeguard.monitor.tokens import TokenTexts
from saeguard.rules import Engine, RequestContext, load_rules
from saeguard.rules.matches import Decision


def test_labels_and_links_of_the_features_that_it_has_read(tmp_path: Path):
    ruleset = load_rules([write_rules(tmp_path)])
    watchlist = compile_watchlist(ruleset)
    (site,) = watchlist.sites
    features = [replace(f, neuronpedia="m/1-res", index=9) for f in site.features]
    other = replace(features[0], name="other", label="not read")
    watchlist = wl.build(watchlist.d_model, [replace(site, features=(*features, other))])
    detector = Detector(Engine(ruleset, ["deceit", "calm"]), "w", num_features=2, record_tokens=4)
    detector.start(start_message("a", [1]), TokenTexts(None, captured=False))
    (found,) = detector.observe(*frame_message({"a": (0, [[0.0, 0.0], [5.0, 0.0]])}, 1, "w"), 0.0)
    decision = Decision(found.match, RequestContext("model"), 0, "alert")
    alert = AlertMaker(ruleset, watchlist).alert(decision, found)
    assert alert.feature_labels == {"deceit": "about to deceive"}
    page = "https://www.neuronpedia.org/m/1-res/9"
    assert alert.feature_links == {"deceit": page, "calm": page}
