"""Which images an epoch shows when classes shall not come as often as they are."""

from typing import Literal

import numpy as np

from pipeline.base.config import Train


class ClassSampler:
    """Rows of an epoch as long as the data, with classes in equal or square-root shares.

    balanced: each class equally often; sqrt: in proportion to the root of its images (Mahajan
    et al. 2018). Images of a class are drawn from one permutation after another, across epochs:
    none comes a second time before all of its class came once. What an epoch shows follows from
    (seed, epoch) alone, so that it can be resumed.
    """

    def __init__(self, target: np.ndarray, kind: Literal["balanced", "sqrt"], seed: int):
        self.seed, self.n = seed, len(target)
        self.members = [np.flatnonzero(target == label) for label in np.unique(target)]
        counts = np.array([len(rows) for rows in self.members], dtype=float)
        shares = np.sqrt(counts) if kind == "sqrt" else np.ones_like(counts)
        self.ends = np.cumsum(shares) / shares.sum() * self.n  # images an epoch, up to each class
        self.ends[-1] = self.n

    def __call__(self, epoch: int) -> np.ndarray:
        """Positions in the data, int64 [n], class by class: to be shuffled."""
        before, after = self.drawn(epoch), self.drawn(epoch + 1)
        draws = zip(self.members, before, after, strict=True)
        return np.concatenate([self.stretch(c, *draw) for c, draw in enumerate(draws)])

    def drawn(self, epochs: int) -> np.ndarray:
        """Images drawn of each class in so many epochs: shares times epochs, rounded.

        Rounding the running totals keeps every epoch at n images; a class is due at least one
        image an epoch, which is why its count never falls.
        """
        totals = np.floor(self.ends * epochs + 0.5).astype(np.int64)
        return np.diff(totals, prepend=0)

    def stretch(self, label: int, rows: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Draws `start` to `stop` from the endless row of permutations of a class."""
        cycles = range(start // len(rows), -(-stop // len(rows)))
        orders = [np.random.default_rng((self.seed, label, k)).permutation(rows) for k in cycles]
        first = start % len(rows)
        return np.concatenate([*orders, rows[:0]])[first : first + stop - start]


def make_sampler(settings: Train, target: np.ndarray, seed: int) -> ClassSampler | None:
    """None: every image once an epoch. `target` is int [n]: soft rows have no class to count."""
    return None if settings.sampler == "none" else ClassSampler(target, settings.sampler, seed)
