"""From rule files to a rule set: YAML with places, shapes, names, overlays, building blocks."""
