"""Figures of scores, and how sure they are. Pure functions, no model and no record.

Samples of one question are no independent evidence, nor are the variants of one: they are clusters. Standard errors follow
Miller, "Adding Error Bars to Evals" (arXiv 2411.00640), with the factor C/(C−1) for C clusters; pass@k is Chen et al.'s
(arXiv 2107.03374).
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import combinations
from random import Random
from statistics import NormalDist

Clusters = Sequence[Sequence[float]]
Vote = tuple[Hashable | None, float]
"""What a sample answered, as it is counted, and its score; None: nothing that could be read, so it has no vote."""
NORMAL = NormalDist()
LEVEL = 0.95
Z95 = NORMAL.inv_cdf(0.5 + LEVEL / 2)
ROUNDING = 1e-12
"""A standard error below this is none: scores that are the same but for their last bits."""
MOST_DRAWS = 5000
"""Subsets of the samples of a question that maj@k looks at; drawn where there are more."""


def mean_of(clusters: Clusters) -> float:
    """The mean over all scores, each counted once."""
    return math.fsum(score for scores in clusters for score in scores) / sum(map(len, clusters))


def clustered_error(clusters: Clusters) -> float | None:
    """The standard error of `mean_of`: √(C/(C−1) · Σ_c (Σ_i (s_ic − mean))²) / n; None for a single cluster."""
    count, mean = len(clusters), mean_of(clusters)
    if count < 2:
        return None
    squares = math.fsum(math.fsum(score - mean for score in scores) ** 2 for scores in clusters)
    error = math.sqrt(count / (count - 1) * squares) / sum(map(len, clusters))
    return error if error > ROUNDING else 0.0


def interval(clusters: Clusters) -> tuple[float, float]:
    """The 95% interval of a mean of scores in [0, 1]: ± 1.96 clustered standard errors, cut to [0, 1].

    Wilson's over the clusters where no spread is seen: that all agree is no certainty.
    """
    mean, count, error = mean_of(clusters), len(clusters), clustered_error(clusters)
    if error:
        return max(0.0, mean - Z95 * error), min(1.0, mean + Z95 * error)
    return wilson(mean * count, count)


def wilson(right: float, count: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share."""
    mean = right / count
    centre = mean + Z95**2 / (2 * count)
    width = Z95 * math.sqrt(mean * (1 - mean) / count + (Z95 / (2 * count)) ** 2)
    low, high = ((centre + sign * width) / (1 + Z95**2 / count) for sign in (-1, 1))
    return min(max(0.0, low), mean) if mean else 0.0, max(min(1.0, high), mean) if mean < 1 else 1.0


def mean_interval(means: Sequence[float], intervals: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The 95% interval of the mean over several benchmarks, from that of each: they are independent of each other."""
    mean, widths = math.fsum(means) / len(means), [(high - low) / 2 for low, high in intervals]
    width = math.hypot(*widths) / len(means)
    return max(0.0, mean - width), min(1.0, mean + width)


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that one of k samples is right, unbiased: 1 − C(n−c, k) / C(n, k), for k ≤ n."""
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def maj_at_k(votes: Sequence[Vote], k: int, seed: int = 0) -> float:
    """The chance that what most of k samples say is right: the mean over all subsets of k, or over `MOST_DRAWS` of them.

    Of answers that are as frequent as each other each wins as often as the others.
    """
    if math.comb(len(votes), k) <= MOST_DRAWS:
        drawn = [list(subset) for subset in combinations(votes, k)]
    else:
        random = Random(seed)
        drawn = [random.sample(list(votes), k) for _ in range(MOST_DRAWS)]
    return math.fsum(map(_majority, drawn)) / len(drawn)


def _majority(votes: list[Vote]) -> float:
    counts = Counter(answer for answer, _ in votes if answer is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    winners = [answer for answer, count in counts.items() if count == most]
    score = dict(votes)
    return math.fsum(score[answer] for answer in winners) / len(winners)


def paired(differences: Clusters) -> tuple[float, tuple[float, float], float]:
    """Of the differences between two runs, question by question: their mean, its 95% interval, and p of there being none.

    differences: in [−1, 1], those of a cluster together. p: two-sided, of mean over clustered standard error, normal. Where
    all differences are the same there is no spread to judge by: the interval then allows for a share of questions that so
    many would have missed once in twenty times, and p is that of a sign test.
    """
    mean, error = mean_of(differences), clustered_error(differences)
    if error:
        return mean, (max(-1.0, mean - Z95 * error), min(1.0, mean + Z95 * error)), 2 * NORMAL.cdf(-abs(mean / error))
    unseen = 1 - (1 - LEVEL) ** (1 / len(differences))
    bounds = max(-1.0, mean - unseen), min(1.0, mean + unseen)
    return mean, bounds, 0.5 ** (len(differences) - 1) if mean else 1.0


def kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Cohen's κ of two people's labels: (agreed − by chance) / (1 − by chance); None where both gave one label alone."""
    count = len(pairs)
    agreed = sum(one == other for one, other in pairs) / count
    first, second = (sum(side) / count for side in zip(*pairs, strict=True))
    chance = first * second + (1 - first) * (1 - second)
    return (agreed - chance) / (1 - chance) if chance < 1 else None
