"""What recorded routing says about the defaults of the routing model.

Sequences of one domain differ little in DeepSeek-V2-Lite; in gpt-oss-20b every sequence is from
another text, which bounds the noise from above. Bounds are around what was measured.
"""

import numpy as np
import pytest

from tests.trace.shared_routing import PER_TOKEN, load_members

pytestmark = pytest.mark.shared_data

LAW, SUMMARY, GPT = PER_TOKEN


def sequence_counts(name):
    """Counts [sequences, layers, experts] and tokens [sequences]."""
    members, experts = load_members(name), PER_TOKEN[name][0]
    topk, sequence = members["topk"], members["seq"]
    layers = topk.shape[1]
    number = np.unique(sequence, return_inverse=True)[1]
    flat = (number[:, None, None] * layers + np.arange(layers)[:, None]) * experts + topk
    size = (number.max() + 1, layers, experts)
    counts = np.bincount(flat.ravel(), minlength=int(np.prod(size))).reshape(size)
    return counts.astype(float), np.bincount(number).astype(float)


def overlaps(name):
    """Share of experts that two tokens have in common: of one sequence, of two sequences."""
    counts, tokens = sequence_counts(name)
    top_k = PER_TOKEN[name][1]
    pairs_within = (tokens * (tokens - 1)).sum()
    pairs_across = tokens.sum() ** 2 - (tokens**2).sum()
    squares = (counts**2).sum(axis=(0, 2))
    within = (squares - tokens.sum() * top_k) / pairs_within / top_k
    across = ((counts.sum(axis=0) ** 2).sum(axis=1) - squares) / pairs_across / top_k
    return within.mean(), across.mean()


def sequence_noise(name):
    """Standard deviation of log popularity between sequences, free of the tokens' noise.

    Pairs of different tokens give the mean square of popularity in one sequence and in two
    without bias; for a log-normal popularity their ratio is exp(sigma^2).
    """
    counts, tokens = sequence_counts(name)
    within = ((counts**2 - counts) / (tokens * (tokens - 1))[:, None, None]).mean(axis=0)
    share = counts / tokens[:, None, None]
    across = (share.sum(axis=0) ** 2 - (share**2).sum(axis=0)) / (len(tokens) * (len(tokens) - 1))
    return np.sqrt(np.log(within.sum() / across.sum()))


@pytest.mark.parametrize(
    ("name", "low", "high"), [(LAW, 0.15, 0.22), (SUMMARY, 0.18, 0.27), (GPT, 0.6, 0.8)]
)
def test_noise_between_sequences(name, low, high):
    assert low < sequence_noise(name) < high


def test_repeats_within_a_sequence():
    for name, ratio in ((LAW, 1.04), (SUMMARY, 1.05), (GPT, 1.69)):
        within, across = overlaps(name)
        assert within / across == pytest.approx(ratio, abs=0.03)


def test_neighbours_repeat_more_than_their_sequence_does():
    # Of the .23 to .46 that neighbouring tokens share, most fades within 64 tokens.
    members, (experts, top_k, layers) = load_members(LAW), PER_TOKEN[LAW]
    chosen = np.zeros((len(members["seq"]), layers, experts), bool)
    np.put_along_axis(chosen, members["topk"].astype(int), True, axis=2)

    def shared(lag):
        same = members["seq"][lag:] == members["seq"][:-lag]
        return (chosen[lag:] & chosen[:-lag])[same].sum() / same.sum() / layers / top_k

    assert shared(1) == pytest.approx(0.29, abs=0.01)
    assert shared(64) == pytest.approx(0.13, abs=0.01)


def test_correlation_between_domains():
    def profile(name, part):
        counts = sequence_counts(name)[0][part].sum(axis=0) + 0.5
        logs = np.log(counts)
        return logs - logs.mean(axis=1, keepdims=True)

    def correlate(a, b):
        return ((a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))).mean()

    halves = slice(0, None, 2), slice(1, None, 2)
    noisy = np.mean(
        [correlate(profile(LAW, a), profile(SUMMARY, b)) for a in halves for b in halves]
    )
    # What a profile from half of the sequences says about the other half bounds it.
    reliable = [correlate(*(profile(name, half) for half in halves)) for name in (LAW, SUMMARY)]
    assert min(reliable) > 0.94
    assert noisy / np.sqrt(np.prod(reliable)) == pytest.approx(0.29, abs=0.03)
