"""Replies of servers in cluster mode: https://redis.io/docs/latest/reference/cluster-spec/ and /commands/cluster-slots/."""

from app.ledger.cluster import is_moved, moved_to, shards_of
from tests.support.cases import each

CURRENT = ("10.0.0.5", 6379)


@each(
    ("error", "node"),
    [
        ("MOVED 3999 127.0.0.1:6381", ("127.0.0.1", 6381)),
        ("ASK 3999 127.0.0.1:6381", ("127.0.0.1", 6381)),
        ("MOVED 3999 node-2.example.com:6379", ("node-2.example.com", 6379)),
        ("MOVED 3999 ::1:6379", ("::1", 6379)),
        ("MOVED 3999 :6380", ("10.0.0.5", 6380)),
        ("MOVED 3999 ?:6380", None),
        ("ERR unknown command", None),
        ("b'1'", None),
    ],
)
def test_moved_names_the_node_that_has_the_key(error: str, node: tuple[str, int] | None) -> None:
    assert node == moved_to(error, CURRENT)


@each(
    ("error", "is_foreign"),
    [
        ("MOVED 3999 127.0.0.1:6381", True),
        ("ERR Script attempted to access a non local key in a cluster node script: 5dd2, on @user_script:1.", True),
        ("READONLY You can't write against a read only replica.", False),
    ],
)
def test_a_script_has_its_own_error_for_a_key_of_another_node(error: str, is_foreign: bool) -> None:
    assert is_foreign == is_moved(error)


@each(
    ("slots", "shards"),
    [
        ([[0, 16383, [b"", 7000, b"a", []]]], [[("10.0.0.5", 7000)]]),
        ([[0, 16383, [None, 7000, b"a"]]], [[("10.0.0.5", 7000)]]),
        (
            [[0, 100, [b"n1", 1, b"a"], [b"n2", 2, b"b"]], [101, 16383, [b"n1", 1, b"a"], [b"n2", 2, b"b"]]],
            [[("n1", 1), ("n2", 2)]],
        ),
        ([[0, 100, [b"n1", 1, b"a"]], [101, 16383, [b"n2", 2, b"b"]]], [[("n1", 1)], [("n2", 2)]]),
        ([[0, 16383, [b"?", 1, b"a"], [b"n2", 2, b"b"]]], [[("n2", 2)]]),
        ([], []),
    ],
    ids=["own address", "no address", "two ranges", "two shards", "unknown address", "no slots"],
)
def test_the_nodes_of_a_shard_begin_with_its_primary(slots: list[object], shards: list[list[tuple[str, int]]]) -> None:
    assert shards == shards_of(slots, CURRENT)
