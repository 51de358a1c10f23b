"""The monitor: joins scores to requests, runs the rules, stores and delivers alerts."""
