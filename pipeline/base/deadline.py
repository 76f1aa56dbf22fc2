"""Time that is left, and whether something still fits into it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

SAFETY = 1.25  # what a pass may cost more than the last one like it did


@dataclass
class Deadline:
    """`seconds` from now on, by a clock that counts seconds; never, unless told otherwise."""

    seconds: float = math.inf
    clock: Callable[[], float] = time.monotonic
    ends: float = field(init=False)

    def __post_init__(self) -> None:
        self.ends = self.clock() + self.seconds

    def left(self) -> float:
        return self.ends - self.clock()

    def fits(self, seconds: float) -> bool:
        return seconds * SAFETY <= self.left()
