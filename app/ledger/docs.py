"""Writes docs/redis.md: `make docs`."""

from collections.abc import Iterable
from pathlib import Path

from app.ledger.keys import KEY_KINDS
from app.ledger.scripts import SOURCES, Script, load

_PATH = Path(__file__).parents[2] / "docs" / "redis.md"
_PAGE = """# Redis

Generated from `app/ledger/keys.py` and the headers of `app/ledger/scripts/*.lua` by `make docs`.

Doorbell needs Redis 7.0 or any Valkey, as one primary; in cluster mode, one shard with all slots. Writes that need memory
run in scripts. A full server refuses only `accept`: accepted deliveries are still applied, and operators can act.

## Keys

{keys}

## A task

The hash `bell:visit:<account>/<external_id>` or `bell:event:<delivery>`. Times are in ms since 1970, by the server's clock.

{task}

## A circuit

The hash `bell:circuit:<account>` exists while the circuit of the account is open.

{circuit}

## Scripts

Scripts are called by the digest of their text. The first argument is the name, for MONITOR and SLOWLOG:

```
$ redis-cli monitor | grep '"complete"'
1790000000.123456 [0 127.0.0.1:51234] "EVALSHA" "0c1f…" "0" "complete" "d019a3b1c2d0a1b2c3d4e" "done" …
$ redis-cli slowlog get 10
```

The line numbers in error messages are those of the text with all includes:
`python -c "from app.ledger.scripts import script; print(script('complete').source)" | cat -n`.

{scripts}
"""


def page() -> str:
    keys = ((f"`{kind.pattern}`", kind.contents, kind.retention) for kind in KEY_KINDS)
    return _PAGE.format(
        keys=_table(("key", "contains", "kept"), keys),
        task=_table(("field", "meaning"), _fields("lib/tasks")),
        circuit=_table(("field", "meaning"), _fields("lib/circuit")),
        scripts="\n\n".join(_script(script) for _, script in sorted(load(SOURCES).items())),
    )


def _fields(library: str) -> Iterable[tuple[str, str]]:
    for line in SOURCES[library].splitlines():
        if line.startswith("--- @field "):
            name, _, meaning = line.removeprefix("--- @field ").partition(" ")
            yield f"`{name}`", meaning


def _script(script: Script) -> str:
    varargs, fields = script.varargs
    listed = [f"{varargs}[]: ({', '.join(fields)})" if fields else f"{varargs}[]"] if varargs else []
    returns = f"\n\nReturns {script.returns}." if script.returns else ""
    return f"### {script.name}\n\n{script.description}\n\n`{', '.join([*script.args, *listed])}`{returns}"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    _PATH.write_text(page(), encoding="utf-8")
