"""Whether a coordinator takes more transactions: by how long those before them have waited.

A queue that only its length bounds makes every transaction of a flood wait for the whole of it.
So what matters is time, as in CoDel (Nichols and Jacobson, 2012): a node that answers steadily
and yet lets transactions wait too long has more to do than it can, and refuses what comes.

A cluster at a stop (a change of master, a stopped disk) is something else: nothing is answered,
and it helps nobody to refuse what will be answered soon.  What has gathered during a stop may
be worked off for as long as the stop took.
"""

from __future__ import annotations

from typing import Final

import attrs

#: With less than this unanswered nothing is refused, however long it takes: a client that waits for its answers
#: before it goes on is no flood.
UNHURRIED_PENDING: Final = 1024
#: Nothing answered for this many times ``limits.wait``: the cluster is at a stop, not flooded.
STOP_WAITS: Final = 2


@attrs.define(eq=False)
class Admission:
    """What a node has seen of its answers.

    :param wait_s: ``limits.wait``.
    :ivar moved_s: when transactions were last answered, or began to wait when none did.
    :ivar lenient_until_s: what gathered during the last stop has time until then.
    """

    wait_s: float
    moved_s: float = 0.0
    lenient_until_s: float = 0.0

    def on_first(self, now_s: float) -> None:
        """Transactions wait, and none did before."""
        self.moved_s = now_s

    def on_answered(self, now_s: float) -> None:
        """Transactions are answered."""
        stop_s = now_s - self.moved_s
        if stop_s > STOP_WAITS * self.wait_s:
            self.lenient_until_s = now_s + stop_s
        self.moved_s = now_s

    def is_flooded(self, now_s: float, pending: int, oldest_s: float) -> bool:
        """Whether a transaction that comes now is to be refused.

        :param pending: how many are unanswered.
        :param oldest_s: when the first of them was handed in.
        """
        return (
            pending >= UNHURRIED_PENDING
            and now_s - oldest_s > self.wait_s
            and now_s - self.moved_s <= STOP_WAITS * self.wait_s
            and now_s >= self.lenient_until_s
        )
