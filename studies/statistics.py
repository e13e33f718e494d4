"""Means over seeds, and differences between paired cells with their intervals."""
import math
from typing import NamedTuple, Optional

import numpy as np
from scipy import stats


class Mean(NamedTuple):
    """Over seeds. low, high: the 95% interval by Student's t, None for a single seed. count: of seeds."""
    value: float
    low: Optional[float]
    high: Optional[float]
    count: int
    least: float
    most: float


def mean(values):
    """``values`` (sequence of float): one for each seed, at least one."""
    values = np.asarray(values, float)
    value, count = float(values.mean()), len(values)
    if count == 1:
        return Mean(value, None, None, 1, value, value)
    reach = float(stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / math.sqrt(count))
    return Mean(value, value - reach, value + reach, count, float(values.min()), float(values.max()))


def paired(of_arm, of_base):
    """Mean difference of the cells of the same seed, and its 95% interval: what all seeds of both arms share, as the
    order of images and the initial weights, cancels.

    Args:
        of_arm, of_base (dict): seed to figure.
    Returns:
        Mean, or None where no seed is in both.
    """
    seeds = sorted(set(of_arm) & set(of_base))
    return mean([of_arm[seed] - of_base[seed] for seed in seeds]) if seeds else None


def verdict(difference, sign):
    """What a difference says of a claim: 'supported', 'contradicted', or 'open' where the interval holds zero or there
    is none.

    Args:
        difference (Mean or None). sign (int): of the claimed difference.
    """
    if difference is None or difference.low is None or difference.low <= 0 <= difference.high:
        return 'open'
    return 'supported' if difference.value * sign > 0 else 'contradicted'
