"""How the tokens of one micro-batch choose experts: exact chances, top-k different ones each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def draw_counts(
    rng: np.random.Generator, chance: NDArray[np.float64], rows: int, tokens: int
) -> NDArray[np.int32]:
    """Draw the loads of ``rows`` sources with ``tokens`` tokens each.

    Systematic sampling: experts lie end to end on a line, each as long as its probability;
    a token draws one u in [0, 1) and takes the experts that u, u+1, u+2, ... hit. Lengths of
    at most 1 cannot be hit twice. Folded to [0, 1), the ends of the experts cut the unit
    interval into segments with constant choice, so the tokens of a row need one multinomial
    draw over segments instead of one draw each. The order on the line is shuffled per call,
    which makes the joint choices vary.

    Parameters
    ----------
    rng : numpy.random.Generator
    chance : ndarray of float, shape [experts] or [rows, experts]
        Inclusion probabilities, summing to the top-k; the same for all sources, or each its own.
    rows, tokens : int

    Returns
    -------
    ndarray of int32, shape [rows, experts]
        Every row sums to tokens x top-k; no count exceeds the tokens.
    """
    if chance.ndim == 2:
        return np.concatenate([draw_counts(rng, own, 1, tokens) for own in chance])
    counts = np.zeros((rows, len(chance)), dtype=np.int32)
    # Experts of every token stay off the line: rounding must not let one be hit twice.
    always = chance > 1.0 - 1e-9
    counts[:, always] = tokens
    top_k = round(float(chance.sum())) - int(always.sum())
    if not top_k:
        return counts
    order = rng.permutation(np.flatnonzero(~always))
    ends = np.cumsum(chance[order])
    ends *= top_k / ends[-1]
    ends[-1] = top_k
    whole = np.floor(ends)
    cuts = ends - whole
    # Segment j lies between the j-th and the next of the sorted cuts; the last end is 0 mod 1.
    sorted_cuts = np.sort(cuts)
    lengths = np.diff(np.append(sorted_cuts, 1.0))
    drawn = rng.multinomial(tokens, lengths / lengths.sum(), size=rows)
    below = np.zeros((rows, len(order) + 1), dtype=np.int64)
    np.cumsum(drawn, axis=1, out=below[:, 1:])
    # Pairs on the line left of an end: one per token for every whole unit, plus the tokens
    # whose u lies left of its fraction.
    left = whole.astype(np.int64) * tokens + below[:, np.searchsorted(sorted_cuts, cuts)]
    counts[:, order] = np.diff(left, axis=1, prepend=0)
    return counts
