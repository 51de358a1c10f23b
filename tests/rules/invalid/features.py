"""Mistakes in features."""

from tests.rules.invalid.wrong import Wrong

CLERK = "{router: {layer: 3}, expert: 7, units: weight,"

FEATURES = {
    "router without a layer": Wrong(
        "router: {layer: 3}", "router: {}", "{}", "missing key 'layer'"
    ),
    "expert without a router": Wrong(
        "{router: {layer: 3}, expert: 7", "{expert: 7", "{expert: 7", "missing key 'router'"
    ),
    "router without an expert": Wrong(
        CLERK, "{router: {layer: 3}, units: weight,", "{router: {layer: 3}", "missing key 'expert'"
    ),
    "router of no layer": Wrong(
        "router: {layer: 3}",
        "router: {layer: -1}",
        "-1",
        "layer: must be greater than or equal to 0",
    ),
    "expert by name": Wrong(
        "expert: 7", "expert: law", "law", "expert: expected a whole number, got the text 'law'"
    ),
    "units of an SAE for a router": Wrong(
        "units: weight",
        "units: raw",
        "raw",
        "units: expected 'weight' or 'logit', got the text 'raw'",
    ),
    "units of a router for an SAE": Wrong(
        "units: neuronpedia",
        "units: logit",
        "logit",
        "units: expected 'raw' or 'neuronpedia', got the text 'logit'",
    ),
    "misspelt expert": Wrong(
        "expert: 7", "expert: 7, exprt: 8", "exprt", "unknown key 'exprt', did you mean 'expert'?"
    ),
    "misspelt router": Wrong(
        "router: {layer: 3}",
        "router: {layer: 3, layr: 4}",
        "layr",
        "unknown key 'layr', did you mean 'layer'?",
    ),
    "index of a router": Wrong(
        "expert: 7", "expert: 7, index: 7", "index: 7", "unknown key 'index'"
    ),
}
