"""A program without a reactor that works with a cluster: client.py tcp:127.0.0.1:8411 [ENDPOINT...]"""

import sys

from txvbcast.client import blocking
from txvbcast.errors import OutcomeUnknown, SubmissionError

with blocking.connect(*sys.argv[1:]) as client:
    print(f"node {client.node_id} of cluster {client.cluster_id}")

    stock = client.get("stock/apples")
    count = int(stock.value) if stock else 0
    # Only if nobody else has written meanwhile; every node performs it, or none.
    put = client.put("stock/apples", b"%d" % (count + 5), if_version=stock.version if stock else 0, mode="2pc")
    print("apples:", count + 5 if put.ok else put.reason)

    fruits = [client.put(f"stock/{fruit}", b"0", timeout=2.0) for fruit in ("pears", "plums")]
    print("stocked:", [item.key for item in client.items("stock/")])

    try:
        client.submit("no such manager", b"")
    except OutcomeUnknown as unknown:  # it may have happened: ask again by its name, at any node, at any time
        print("unknown:", client.outcome(unknown.request_id or ""))
    except SubmissionError as failed:  # it has not happened
        print("failed:", failed)
