"""Statistics of scores: means, intervals, pass@k, maj@k, paired differences, κ. Pure functions without models or records.

Samples of one question are not independent evidence, nor are variants of it: they form clusters. Standard errors
follow Miller, "Adding Error Bars to Evals" (arXiv 2411.00640), with the factor C/(C−1) for C clusters. pass@k is Chen
et al.'s (arXiv 2107.03374).
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random
from statistics import NormalDist

Clusters = Sequence[Sequence[float]]
Vote = tuple[Hashable | None, float]
"""What a sample answered, as it is counted, and its score. None: nothing readable, so it has no vote."""
NORMAL = NormalDist()
LEVEL = 0.95
# 1.96: the two-sided quantile of the normal distribution at LEVEL.
Z95 = NORMAL.inv_cdf(0.5 + LEVEL / 2)
ROUNDING_ERROR = 1e-12
"""A standard error below this is zero: the scores differ in their last bits only."""
EXACT_LIMIT = 14
"""Most differing clusters for which all ways to swap the two runs are enumerated."""
MAX_DRAWS = 5000
"""Most subsets of a question's samples that maj@k evaluates; more are drawn at random."""


def mean_score(clusters: Clusters) -> float:
    """Returns the mean over all scores, each counted once."""
    return math.fsum(score for scores in clusters for score in scores) / sum(map(len, clusters))


def clustered_error(clusters: Clusters) -> float | None:
    """Returns the standard error of `mean_score`: √(C/(C−1) · Σ_c (Σ_i (s_ic − mean))²) / n; None for a single cluster."""
    count, mean = len(clusters), mean_score(clusters)
    if count < 2:
        return None
    squares = math.fsum(math.fsum(score - mean for score in scores) ** 2 for scores in clusters)
    error = math.sqrt(count / (count - 1) * squares) / sum(map(len, clusters))
    # Equal scores leave a rest of about 1e-17.
    return error if error > ROUNDING_ERROR else 0.0


def clustered_interval(clusters: Clusters) -> tuple[float, float]:
    """Returns the 95% interval of a mean of scores in [0, 1]: ± 1.96 clustered standard errors, cut to [0, 1].

    Without any spread it is Wilson's interval over the clusters, because full agreement is not certainty.
    """
    mean, count, error = mean_score(clusters), len(clusters), clustered_error(clusters)
    if error:
        return max(0.0, mean - Z95 * error), min(1.0, mean + Z95 * error)
    return wilson_interval(mean * count, count)


def wilson_interval(right: float, count: int) -> tuple[float, float]:
    """Returns Wilson's 95% interval of a share."""
    mean = right / count
    center = mean + Z95**2 / (2 * count)
    width = Z95 * math.sqrt(mean * (1 - mean) / count + (Z95 / (2 * count)) ** 2)
    low, high = ((center + sign * width) / (1 + Z95**2 / count) for sign in (-1, 1))
    return min(max(0.0, low), mean) if mean else 0.0, max(min(1.0, high), mean) if mean < 1 else 1.0


def mean_interval(
    means: Sequence[float], intervals: Sequence[Sequence[float]], errors: Sequence[float | None]
) -> tuple[float, float]:
    """Returns the 95% interval of the mean over several independent benchmarks (Zou and Donner, 2008).

    A benchmark contributes 1.96 of its standard error, uncut; without spread, the half-width of its Wilson interval.
    """
    mean, count = math.fsum(means) / len(means), len(means)
    below, above = [], []
    for own, (low, high), error in zip(means, intervals, errors, strict=True):
        below.append(Z95 * error if error else own - low)
        above.append(Z95 * error if error else high - own)
    return max(0.0, mean - math.hypot(*below) / count), min(1.0, mean + math.hypot(*above) / count)


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Returns the unbiased probability that one of k samples is right: 1 − C(n−c, k) / C(n, k), for k ≤ n."""
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def maj_at_k(votes: Sequence[Vote], k: int, seed: int = 0) -> float:
    """Returns the probability that the majority of k samples is right: the mean over all subsets of k, or over
    `MAX_DRAWS` of them.

    Tied answers win equally often.
    """
    if math.comb(len(votes), k) <= MAX_DRAWS:
        drawn = [list(subset) for subset in combinations(votes, k)]
    else:
        random = Random(seed)
        drawn = [random.sample(list(votes), k) for _ in range(MAX_DRAWS)]
    return math.fsum(map(_majority_vote, drawn)) / len(drawn)


def _majority_vote(votes: list[Vote]) -> float:
    counts = Counter(answer for answer, _ in votes if answer is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    winners = [answer for answer, count in counts.items() if count == most]
    # Equal answers have equal scores.
    score = dict(votes)
    return math.fsum(score[answer] for answer in winners) / len(winners)


@dataclass(frozen=True)
class PairedDifference:
    """How much better one run is than another, in [−1, 1]: mean difference, 95% interval, and p for no difference."""

    difference: float
    ci95: tuple[float, float]
    p: float


def paired_difference(benchmarks: Sequence[Clusters]) -> PairedDifference:
    """Returns the difference between two runs, question by question, with differences of a cluster together, benchmark by
    benchmark.

    Benchmarks have equal weights and are independent. The interval is ± 1.96 clustered standard errors; where all
    differences of a benchmark are equal, it allows for a share of questions that this many would miss once in twenty
    times. p is two-sided: where at most `EXACT_LIMIT` clusters differ, the share of all ways to swap the two runs,
    cluster by cluster, that are at least as far apart; else normal.
    """
    means, count = [mean_score(clusters) for clusters in benchmarks], len(benchmarks)
    difference = math.fsum(means) / count
    widths, errors, shares = [], [], []
    for clusters in benchmarks:
        error, whole = clustered_error(clusters), count * sum(map(len, clusters))
        own = [math.fsum(scores) / whole for scores in clusters]
        widths.append(Z95 * error if error else 1 - (1 - LEVEL) ** (1 / len(clusters)))
        errors.append(error / count if error else math.hypot(*own))
        shares += own
    width = math.hypot(*widths) / count
    bounds = max(-1.0, difference - width), min(1.0, difference + width)
    moved = [share for share in shares if abs(share) > ROUNDING_ERROR]
    if len(moved) <= EXACT_LIMIT:
        return PairedDifference(difference, bounds, _sign_flip_share(moved))
    return PairedDifference(difference, bounds, 2 * NORMAL.cdf(-abs(difference) / math.hypot(*errors)))


def _sign_flip_share(shares: Sequence[float]) -> float:
    """Returns the share of all sign choices whose sum is at least as far from 0 as this one."""
    # At most 2^14 sums (EXACT_LIMIT).
    sums = [0.0]
    for share in shares:
        sums = [total + signed for total in sums for signed in (share, -share)]
    return sum(abs(total) >= abs(math.fsum(shares)) - ROUNDING_ERROR for total in sums) / len(sums)


def cohen_kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Returns Cohen's κ of two raters: (agreement − chance) / (1 − chance); None where both gave a single label."""
    count = len(pairs)
    agreed = sum(one == other for one, other in pairs) / count
    first, second = (sum(side) / count for side in zip(*pairs, strict=True))
    chance = first * second + (1 - first) * (1 - second)
    return (agreed - chance) / (1 - chance) if chance < 1 else None
