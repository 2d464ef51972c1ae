"""Divides time. Knows no clock: `now` is handed to it, in seconds."""

from dataclasses import dataclass

# A run of the usual number of requests takes about so long, starting the load generator included.
RUN_SECONDS = 1.5
# Runs shorter than this part of the usual say little.
SCALE_MIN = 0.1
# What is aimed at, if time is short, before runs are made longer.
ROUNDS_AIM = 3
ROUNDS_DEFAULT, ROUNDS_MAX = 5, 15


def until(now, deadline, weight, weights_left):
    """When something has to end that has `weight` of all that is still to be done, itself included; None if time does not matter."""
    return None if deadline is None else now + max(0.0, deadline - now) * weight / weights_left


def scale(seconds, contenders):
    """How long a run may be, as part of the usual, if a point has so many seconds for all contenders."""
    if seconds is None:
        return 1.0
    return max(SCALE_MIN, min(1.0, seconds / (contenders * ROUNDS_AIM * RUN_SECONDS)))


@dataclass
class Rounds:
    """Whether another round is to be had."""

    wanted: int | None
    deadline: float | None
    done: int = 0
    longest: float = 0.0
    began: float = 0.0

    def another(self, now):
        """Says whether to go on, and takes note of how long the last round took. The first is always had."""
        if self.done:
            self.longest = max(self.longest, now - self.began)
        most = self.wanted or (ROUNDS_DEFAULT if self.deadline is None else ROUNDS_MAX)
        fits = self.deadline is None or now + self.longest <= self.deadline
        if self.done and (self.done >= most or not fits):
            return False
        self.done += 1
        self.began = now
        return True
