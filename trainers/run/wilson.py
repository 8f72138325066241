"""Wilson's score interval of a share, the one interval of a rate that trainers, BPO's report and evaluations print."""

import math
from statistics import NormalDist

Z95 = NormalDist().inv_cdf(0.975)


def wilson(share: float, n: float, z: float = Z95) -> tuple[float, float]:
    """The 95% score interval of a share (Wilson 1927, "Probable inference", equation 4); holds near 0 and 1.

    Args:
        share: in [0, 1].
        n: how many were counted, or their effective number; above 0.
        z: standard deviations of the normal distribution; Z95 for 95%.

    Returns:
        (low, high), both in [0, 1] and around `share`.

    Raises:
        ValueError: n is not above 0, or the share is outside [0, 1].
    """
    if not n > 0 or not 0 <= share <= 1:
        raise ValueError(f"a share lies in [0, 1] and is of more than 0, not {share} of {n}")
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n * n))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))
