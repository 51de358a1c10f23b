"""What becomes of matches: exceptions, limits, correlations across requests."""
