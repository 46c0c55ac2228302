"""Tests by how much of the world they need; inside each folder as in `app` and `jobs`.

unit, sources, architecture: nothing but the code (no server, no Redis). integration: a real Redis and the sandbox, our
code in this process or one of ours beside it. processes: everything as in production, killed and restarted. browser: the
console in Chromium. crash, fuzz, histories, bench: programs of their own (`make soak`, `make fuzz`, `make bench`), of which
the other tests run a short part. support: what tests share.
"""
