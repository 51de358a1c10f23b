"""How often rules are right on requests that somebody has labelled, and thresholds for a budget."""
