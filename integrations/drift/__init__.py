"""Whether a model has moved away from what its rules were calibrated on.

command.py      `saeguard drift`
sources.py      where scores come from: recordings, an alert store, a calibration record
live.py         scores of lately with those of calibration
fit.py          what an SAE explains of both sides
checkpoints.py  weights on disk, adapters among them, read a block at a time
writers.py      which of them write into the residual stream before a hook point
weights.py      how much of their change lies along the watched directions
paired.py       the same requests, run by two models
directions.py   what the rules watch, as unit vectors
between.py      two models, by weights and activations
words.py        what was found of scores, in sentences and tables
model_words.py  what was found between two models
"""
