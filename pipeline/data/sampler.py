"""Which images an epoch shows when classes shall not come as often as they are."""

from typing import Literal

import numpy as np


def batches_of(n: int, batch_size: int) -> int:
    """How many batches of about that size `n` images make: none of one image, if there are two."""
    return max(1, min(round(n / batch_size), n // 2))


class ClassSampler:
    """Rows of an epoch as long as the data, with classes in equal or square-root shares.

    balanced: each class equally often; sqrt: in proportion to the root of its images (Mahajan
    et al. 2018). None comes again in an epoch before all of its class came. What an epoch shows
    follows from (seed, epoch) alone, so that it can be resumed.
    """

    def __init__(self, target: np.ndarray, kind: Literal["balanced", "sqrt"], seed: int):
        self.seed = seed
        self.rows = [np.flatnonzero(target == label) for label in np.unique(target)]
        counts = np.array([len(rows) for rows in self.rows], dtype=float)
        shares = np.sqrt(counts) if kind == "sqrt" else np.ones_like(counts)
        # rounding the running totals keeps every epoch at n images; each class is due one or more
        ends = np.floor(np.cumsum(shares) / shares.sum() * len(target) + 0.5).astype(np.int64)
        self.draws = np.diff(ends, prepend=0)

    def __call__(self, epoch: int) -> np.ndarray:
        """Positions in the data, int64 [n], class by class: to be shuffled."""
        rng = np.random.default_rng((self.seed, epoch, 1))
        pairs = zip(self.rows, self.draws, strict=True)
        return np.concatenate([np.resize(rng.permutation(rows), n) for rows, n in pairs])


class ShareSampler:
    """Rows of an epoch of which external ones are a `share`; all others come once.

    `extra` is bool [n]. None of these comes again before all of them came, within an epoch.
    """

    def __init__(self, extra: np.ndarray, share: float, seed: int):
        self.seed, self.own, self.more = seed, np.flatnonzero(~extra), np.flatnonzero(extra)
        self.draws = round(len(self.own) * share / (1 - share)) if extra.any() else 0

    def __call__(self, epoch: int) -> np.ndarray:
        """Positions in the data, int64, to be shuffled."""
        drawn = np.random.default_rng((self.seed, epoch, 2)).permutation(self.more)
        return np.concatenate([self.own, np.resize(drawn, self.draws)])
