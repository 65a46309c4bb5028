"""A member that is slow, but not silent for long enough to be failed: it slows nobody else in mode broadcast."""

from __future__ import annotations

import time
from selectors import EVENT_READ, DefaultSelector

from tests.closed_loop import BusyClient, ClosedLoopCase

OUTSTANDING = 64
#: Each window, with the slow member and without.
WINDOW_S = 2.5
#: The slow member's life, over and over again; far below the heartbeat timeout.
STOPPED_S = 0.05
RUNNING_S = 0.01
#: Of what is committed without a slow member, at least this is committed with one.
SHARE_MIN = 0.5


class SlowMemberTests(ClosedLoopCase):
    """Three nodes; one follower is stopped again and again."""

    def test_broadcast(self) -> None:
        """64 outstanding via the master, windows with and without the slow member in turn."""
        self.start()
        client = self.client(1, OUTSTANDING)
        client.run(f"count {20 * OUTSTANDING}")
        before = client.run(f"seconds {WINDOW_S}")
        slowed, stops = self.run_slowed(client, 3)
        self.wait_home()
        after = client.run(f"seconds {WINDOW_S}")
        self.assertGreater(stops, WINDOW_S / (STOPPED_S + RUNNING_S) / 4, "the follower was not slow")
        self.assertEqual(self.events(1, "node_failed", "node_inactive"), [], "the follower was to stay normal")
        share = slowed / min(before, after)
        told = f"{slowed} committed beside a slow member, {before} before and {after} after"
        self.assertGreaterEqual(share, SHARE_MIN, told)

    def run_slowed(self, client: BusyClient, node_id: int) -> tuple[int, int]:
        """Commit for a window while a node hardly runs; how many were committed, and how often it was stopped."""
        node, stops = self.cluster[node_id], 0
        assert client.process.stdout is not None
        with DefaultSelector() as answers:
            answers.register(client.process.stdout, EVENT_READ)
            client.begin(f"seconds {WINDOW_S}")
            while not answers.select(RUNNING_S):
                node.freeze()
                stops += 1
                time.sleep(STOPPED_S)
                node.thaw()
        committed, failed = client.result()
        self.assertEqual(failed, 0)
        return committed, stops
