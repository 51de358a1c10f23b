"""Whether scores of lately are still distributed as they were when rules were calibrated.

samples.py     requests of both sides, and what counts as one of them
tables.py      how many tokens of each score above each of some cuts
resampling.py  what chance makes of it: requests that change sides
discoveries.py which of many tests are no chance
sides.py       what each side is like
compare.py     all of it together: a `Drift` for each feature in each phase
results.py     what it says
concerned.py   which rules read a feature, and from which score on
"""
