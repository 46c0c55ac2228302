# Commands for development, CI and releases. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help demo dev test browser connections picture soak fuzz mutants check format docs bench pin clean

# The search runs in /, because version managers refuse versions other than that of .python-version.
# It prefers a Python with the security fixes that `doorbell doctor` requires, and accepts any supported one.
PATCHED := (3, 11, 10) <= v < (3, 12) or v >= (3, 12, 6)
SUPPORTED := v >= (3, 11)
CHECK = import sys; v = sys.version_info; ($(1)) and print(sys.executable)
PYTHON := $(shell cd / && for check in '$(call CHECK,$(PATCHED))' '$(call CHECK,$(SUPPORTED))'; do \
	for p in python3.14 python3.13 python3.12 python3.11 python3 python; do \
	path=$$($$p -c "$$check" 2>/dev/null) && [ -n "$$path" ] && echo "$$path" && break 2; done; done)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes

help:           ## List the commands
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

demo: .venv/run    ## Run the whole system on this machine, with nothing to set up
	@$(BIN)/doorbell demo

dev: .venv/dev .dev/env    ## Run web with reload, worker, sandbox and an embedded Valkey; Ctrl-C stops them, their data is in .dev
	@PATH="$(CURDIR)/$(BIN):$$PATH" honcho -e deploy/dev.env,.dev/env -f deploy/Procfile.dev -d . start

# Secrets for this clone, generated once.
.dev/env:
	@mkdir -p .dev
	@$(BIN)/python -c 'from secrets import token_hex as t; print(f"SECRET_KEY={t(32)}\nHOOKS__STANDARD__SECRETS=whsec_{t(24)}\nHOOKS__CALENDLY__SECRETS={t(16)}")' > $@
	@printf "CONSOLE_PASSWORD_HASH='%s'\n" "$$(echo development-only | $(BIN)/doorbell hash-password)" >> $@

# Many tests wait for processes, so there are more pytest workers than cores.
# The many processes compile each module once, also where the environment turns the cache of compiled modules off.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q --dist loadfile --no-loadscope-reorder

test: .venv/dev    ## Run all tests except those in a browser
	$(PYTEST) -n 5 tests/processes tests/integration tests/sources tests/fuzz tests/bench tests/unit tests/architecture

browser: .venv/dev ## Test the console in a real browser (Chromium), with a screenshot of every page
	$(PYTEST) -n 2 tests/browser

connections: .venv/dev ## Connect every tool to its fake, disable it and drop its webhooks (ten minutes)
	EVERY_TOOL=1 $(PYTEST) -n 0 tests/processes/test_connections.py

picture: .venv/dev ## Take docs/console.png, the picture of the README, from a demo in Chromium
	$(BIN)/python -m tests.browser.picture

soak: .venv/dev    ## Run 10,000 histories of every source, 1,000 kills under load, and many generated values (four hours on two cores)
	$(BIN)/python -m tests.histories
	$(BIN)/python -m tests.crash
	$(PYTEST) -n 2 --hypothesis-profile soak tests/sources tests/unit tests/integration/visits

fuzz: .venv/deep   ## Fuzz bodies, translations and the HTTP protocol, guided by coverage (an hour each)
	for target in body translate http; do $(BIN)/python -m tests.fuzz $$target $(SECONDS_EACH) || exit 1; done
SECONDS_EACH := 3600

mutants: .venv/deep ## Mutation tests of signatures, bodies, merge and retry (ten minutes)
	rm -rf mutants
	$(BIN)/mutmut run
	$(BIN)/python -m tests.fuzz.mutants

check: .venv/dev   ## Check lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev  ## Format the code, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/dev    ## Write the generated files: docs/redis.md, docs/cli.md, the dictionaries of new sources, deploy/alerts.yaml, .env.example, and tables in docs/connections.md, docs/glossary.md, docs/runbook.md and README.md
	$(BIN)/python -m app.ledger.docs
	$(BIN)/python -m app.ledger.train_dictionaries
	$(BIN)/python -m app.connections.docs
	$(BIN)/python -m app.cli.docs
	$(BIN)/python -m app.telemetry.alert_rules
	$(BIN)/python -c 'from app.settings.environment import env_example; print(env_example(), end="")' > .env.example

bench: .venv/dev .venv/peers ## Benchmarks, side by side with other implementations; PARTS="intake start" runs some of them
	$(BIN)/python -m tests.bench $(PARTS)
PARTS := all

pin: .venv/dev     ## Pin the requirements again, with hashes
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile $(PIN) pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile $(PIN) --group telemetry -c requirements.txt -o deploy/telemetry-requirements.txt
	$(BIN)/uv pip compile $(PIN) --group dev --group telemetry pyproject.toml -c requirements.txt -o tests/requirements.txt
	$(BIN)/uv pip compile $(PIN) --group deep -c tests/requirements.txt -o tests/fuzz/requirements.txt
	$(BIN)/uv pip compile $(PIN) --group bench -o tests/bench/requirements.txt
PIN := --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header

clean:          ## Remove everything that make created
	rm -rf .venv .dev build mutants *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/made:
	@[ -n "$(PYTHON)" ] || { echo "Doorbell needs Python 3.11 or newer; none was found." >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "$(PYTHON) cannot make a venv; on Debian: apt install python3-venv." >&2; exit 1; }
	@touch $@

# Creates the command `doorbell` without a build: a build would download tools that are not pinned by a hash.
.venv/run: .venv/made requirements.txt Makefile
	@echo "installing the requirements into .venv …"
	@$(INSTALL) -r requirements.txt
	@printf '#!/bin/sh\nexec "%s" -P -c "import sys; sys.path.insert(0, \\"%s\\"); from app.cli import main; main(prog_name=\\"doorbell\\")" "$$@"\n' \
		"$(CURDIR)/$(BIN)/python" "$(CURDIR)" > $(BIN)/doorbell && chmod +x $(BIN)/doorbell
	@touch $@

.venv/dev: .venv/run tests/requirements.txt
	@echo "installing the tools for tests and checks into .venv …"
	@$(INSTALL) -r tests/requirements.txt
	@touch $@

.venv/deep: .venv/dev tests/fuzz/requirements.txt
	@$(INSTALL) -r tests/fuzz/requirements.txt
	@touch $@

# An environment of its own: none of these may come with Doorbell's requirements.
.venv/peers: .venv/made tests/bench/requirements.txt
	@$(BIN)/python -m venv $@
	@$@/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/bench/requirements.txt
	@touch $@
