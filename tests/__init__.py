"""Tests, in folders by the services that they need; each folder mirrors `app` and `jobs`.

unit, sources, architecture: only the code, no server and no Redis. integration: a real Redis and the sandbox, with Doorbell
in this process or beside it. processes: all processes as in production, killed and restarted. browser: the console in
Chromium. crash, fuzz, histories, bench: separate programs (`make soak`, `make fuzz`, `make bench`), of which other tests run
a short part. support: shared helpers.
"""
