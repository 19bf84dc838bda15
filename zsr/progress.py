"""How a loop is watched: the caller may wrap its steps, in a progress bar for one."""

from collections.abc import Callable, Iterable

Watch = Callable[[range, int], Iterable[int]]  # (the steps to come, how many are done) -> the same steps


def unwatched(steps: range, done: int) -> Iterable[int]:
    """The steps themselves, for those who want to see no progress."""
    return steps
