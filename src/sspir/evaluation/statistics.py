"""Intervals of means and of paired differences: bootstrap intervals, and Student's t of few values."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

RESAMPLES = 5000
CONFIDENCE = 0.95
SMALLEST_N = 6  # with fewer pairs not even a clean sweep is significant: 2 / 2^5 > 5 %
STUDENT = {3: 4.3027, 4: 3.1824, 5: 2.7764}  # number of values -> t of n - 1 degrees of freedom, at 97.5 %
CHUNK = 2**20  # indices drawn at once: memory does not grow with the number of images


@dataclass(frozen=True)
class Interval:
    """A mean over n images and its 95 % interval, in the unit of the values; one or two images have none."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def holds_zero(self) -> bool:
        """Whether the mean may as well be zero."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high


@dataclass(frozen=True)
class Difference:
    """How much better (positive) or worse one method is than another on the same images.

    Attributes:
        gain: mean and interval of the paired differences, oriented so that positive means better.
        win_rate: share of images on which it is better; a tie counts half.
    """

    gain: Interval
    win_rate: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero, on enough images to tell."""
        return self.gain.n >= SMALLEST_N and not self.gain.holds_zero


def orient(facts: Mapping[str, Any], values: Any) -> Any:
    """Values of a metric (a number or an array) turned so that larger is better.

    A ratio, whose best value is its ideal, becomes its distance from the ideal in logarithms, negated.

    Args:
        facts: the metric's "higher_is_better" and "ideal", as in `summary.json`.
        values: of the metric.
    """
    if facts["ideal"] is not None:
        return -np.abs(np.log(np.maximum(values / facts["ideal"], 1e-12)))  # a ratio of 0 is the worst
    return values if facts["higher_is_better"] else -values


def bootstrap(values: Values, seed: int = 0) -> Interval:
    """Mean and expanded percentile-bootstrap interval (Hesterberg 2015) of six values (n,) or more; NaN are left out.

    The resampled images depend on n and seed alone, so two methods are resampled alike. Plain percentiles (Efron 1979)
    are too narrow for few images: of six without a difference they call 13 % different, of ten 10 %, of twenty 7 %.
    Fewer have Student's t interval: no resampled mean lies beyond the extremes, which 75 % of threes have the truth in.
    """
    values = values[np.isfinite(values)]
    n = len(values)
    if n < 3:  # of two it is thirteen times as wide as they lie apart
        return Interval(float(values.mean()) if n else float("nan"), None, None, n)
    mean = float(values.mean())
    if n < SMALLEST_N:
        half = STUDENT[n] * float(values.std(ddof=1)) / n**0.5
        return Interval(mean, mean - half, mean + half, n)
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK // n)
    means: list[Values] = []
    for start in range(0, RESAMPLES, rows):
        chosen = generator.integers(0, n, size=(min(rows, RESAMPLES - start), n))
        means.append(values[chosen].mean(axis=1))
    tail = _tail(n)
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(mean, float(low), float(high), n)


def _tail(n: int) -> float:
    """Share of the means of n resampled values that is cut off at each end.

    By it an interval of normal values is as wide as Student's t with n - 1 degrees of freedom has it, whose quantile is
    that of Abramowitz and Stegun 26.7.5.
    """
    normal = NormalDist()
    z, m = normal.inv_cdf((1 + CONFIDENCE) / 2), n - 1
    t = (
        z
        + (z**3 + z) / (4 * m)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * m**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * m**3)
    )
    return normal.cdf(-t * (n / m) ** 0.5)


def compare(a: Values, b: Values, seed: int = 0) -> Difference:
    """How much better a (n,) is than b (n,), image by image, where larger values are better."""
    gains = a - b
    gains = gains[np.isfinite(gains)]
    wins = float(np.mean((gains > 0) + 0.5 * (gains == 0))) if len(gains) else float("nan")
    return Difference(bootstrap(gains, seed), wins)
