"""`saeguard verify`: proves on a live engine what watching rests on.

`command` starts the engine in a process of its own (`engine`, `engine_process`), with the user's
watchlist and rules and a little more (`setting`), sends it requests (`session`), judges what came
of them (`checks`, against `reference`), measures the cost, and prints a report.
"""
