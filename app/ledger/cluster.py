"""A server in cluster mode: one shard with all slots, whose primary may change.

The scripts use keys of several slots, so that several shards cannot work: https://redis.io/docs/latest/reference/cluster-spec/.
"""

from collections.abc import Sequence
from typing import Any

from app.ledger.sentinel import Endpoint

#: A script answers this if a key belongs to another node.
_FOREIGN_KEY = "attempted to access a non local key"


def is_moved(error: str) -> bool:
    """Whether an error reply means that the keys belong to another node."""
    return error.startswith(("MOVED ", "ASK ")) or _FOREIGN_KEY in error


def moved_to(error: str, current: Endpoint) -> Endpoint | None:
    """Return where the keys are, after an error like MOVED 3999 10.0.0.7:6379; None if it does not say so.

    current: the node that answered. It leaves the host out if it is its own.
    """
    word, _, target = error.partition(" ")
    host, _, port = target.rpartition(" ")[2].rpartition(":")
    if word not in ("MOVED", "ASK") or host == "?" or not port.isdecimal():
        return None
    return host or current[0], int(port)


def shards_of(slots: Sequence[Any], current: Endpoint) -> list[list[Endpoint]]:
    """Return the nodes of each shard, its primary first, from a reply to CLUSTER SLOTS."""
    shards: dict[bytes, list[Endpoint]] = {}
    for _, _, *nodes in slots:
        hosts = [((node[0] or b"").decode() or current[0], int(node[1])) for node in nodes]
        shards[nodes[0][2]] = [endpoint for endpoint in hosts if endpoint[0] != "?"]
    return list(shards.values())
