"""Time that is left, and whether something still fits into it."""

import math
import time
from collections.abc import Callable

SAFETY = 1.25  # what a pass may cost more than the last one like it did


class Deadline:
    """`seconds` from now on, by a clock that counts seconds; never, unless told otherwise."""

    def __init__(self, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic):
        self.seconds, self.clock, self.ends = seconds, clock, clock() + seconds

    def left(self) -> float:
        return self.ends - self.clock()

    def fits(self, seconds: float) -> bool:
        return seconds * SAFETY <= self.left()
