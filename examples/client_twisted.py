"""A program with Twisted's reactor that works with a cluster: client_twisted.py tcp:127.0.0.1:8411 [ENDPOINT...]"""

import sys

from twisted.internet.defer import ensureDeferred
from twisted.internet.task import react

from txvbcast.client import Client, connect
from txvbcast.wire.kv import put_payload


async def watch(client: Client) -> None:
    async for event in client.events():
        print("event:", event.kind, "told by node", event.told_by)


async def main(reactor: object, *endpoints: str) -> None:
    client = await connect(*endpoints)
    watching = ensureDeferred(watch(client))

    committed = await client.submit("kv", put_payload("greeting", b"hello"), mode="3pc", timeout=2.0)
    print("committed at", committed.seq)

    outcomes = await client.submit_many("kv", [put_payload(f"many/{k:04}", b"x" * 128) for k in range(1000)])
    print(outcomes.committed, "of", len(outcomes), "committed;", outcomes.failures or "none failed")

    print("keys:", len(await client.items("many/")), "greeting:", await client.get("greeting"))
    print("master:", (await client.status())["master"])
    await client.close()
    await watching  # ends with the client


react(main, sys.argv[1:])
