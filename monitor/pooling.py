"""What heads keep of the tokens before: weighted means and maxima that go on token by token.

A softmax over tokens is kept as three logarithms: of the sum of exp(logit), and of the parts of
the sum of exp(logit) * value with positive and with negative values. None of them can overflow,
and each grows by one `logaddexp` a token, in the order of the tokens, whatever the calls are that
they come in: how a request was cut into chunks changes nothing.

A token that was not observed is left out of what is pooled, and has no score itself. A maximum can
only be too low by that. A mean may be anything: it is given where at least half of the tokens that
it is to be over were observed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from saeguard.monitor.heads import Head, Numbers


def empty_state(head: Head) -> Numbers:
    """Before the first token: how many were observed, and what `pool` keeps."""
    width = head.num_pooled * (3 if head.kind == "attention" else 1)
    return np.array([0.0] + [-np.inf] * width)


def pool(
    head: Head, state: Numbers, outputs: Numbers, num_tokens: npt.NDArray[np.integer]
) -> tuple[Numbers, Numbers]:
    """Go on by some tokens of several requests.

    Args:
        state: [requests, state], of each before them.
        outputs: [requests, tokens, outputs] of the head; NaN where not observed.
        num_tokens: [requests, tokens], how many its score is to be over, with those that were not
            observed.

    Returns:
        Scores [requests, tokens], NaN where there is none, and the state after them.
    """
    is_seen = np.asarray(~np.isnan(outputs).any(axis=2))
    num_seen = state[:, :1] + is_seen.cumsum(axis=1)
    terms = np.where(is_seen[..., None], _terms(head, outputs), -np.inf)
    so_far = np.concatenate([state[:, None, 1:], terms], axis=1)
    if head.kind == "attention":
        kept = np.logaddexp.accumulate(so_far, axis=1)[:, 1:]
        total, above, below = np.split(kept, 3, axis=2)
        pooled = np.exp(above - total) - np.exp(below - total)
        is_known = is_seen & (2 * num_seen >= num_tokens)
    else:
        pooled = kept = np.maximum.accumulate(so_far, axis=1)[:, 1:]
        is_known = is_seen
    scores = np.where(is_known, pooled.sum(axis=2) + head.bias, np.nan)
    return scores, np.concatenate([num_seen[:, -1:], kept[:, -1]], axis=1)


def _terms(head: Head, outputs: Numbers) -> Numbers:
    """What each token adds to the state."""
    if head.kind == "multimax":
        return outputs
    logits, values = outputs[..., : head.num_pooled], outputs[..., head.num_pooled :]
    above, below = np.log(np.maximum(values, 0.0)), np.log(np.maximum(-values, 0.0))
    return np.concatenate([logits, logits + above, logits + below], axis=2)
