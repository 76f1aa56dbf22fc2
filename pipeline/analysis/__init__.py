"""What went right and wrong, and why? Numbers over a finished run's out-of-fold answers."""
