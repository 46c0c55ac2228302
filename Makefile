# Everything that a newcomer, CI or a release needs; `make` alone lists it.
.DEFAULT_GOAL := help
.PHONY: help demo dev test browser soak fuzz mutants check format bench pin clean

# Found outside this folder, so that a version manager that reads .python-version cannot say no.
# First one with the security fixes that `doorbell doctor` asks for; else any that Doorbell runs on.
FIXED := (3, 11, 10) <= v < (3, 12) or v >= (3, 12, 6)
ENOUGH := v >= (3, 11)
FIND = import sys; v = sys.version_info; ($(1)) and print(sys.executable)
PYTHON := $(shell cd / && for find in '$(call FIND,$(FIXED))' '$(call FIND,$(ENOUGH))'; do \
	for p in python3.14 python3.13 python3.12 python3.11 python3 python; do \
	found=$$($$p -c "$$find" 2>/dev/null) && [ -n "$$found" ] && echo "$$found" && break 2; done; done)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes

help:           ## What there is
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

demo: .venv/run    ## Everything on this machine, with nothing to set up
	@$(BIN)/doorbell demo

dev: .venv/dev .dev/env    ## Web with reload, worker, sandbox and an embedded Valkey; Ctrl-C stops them, .dev keeps their data
	@PATH="$(CURDIR)/$(BIN):$$PATH" honcho -e deploy/dev.env,.dev/env -f deploy/Procfile.dev -d . start

# Secrets of this machine, made once.
.dev/env:
	@mkdir -p .dev
	@$(BIN)/python -c 'from secrets import token_hex as t; print(f"SECRET_KEY={t(32)}\nHOOKS__STANDARD__SECRETS=whsec_{t(24)}\nHOOKS__CALENDLY__SECRETS={t(16)}")' > $@
	@printf "CONSOLE_PASSWORD_HASH='%s'\n" "$$(echo development-only | $(BIN)/doorbell hash-password)" >> $@

# Some tests wait for processes more than they work, so there are more workers than cores.
PYTEST := $(BIN)/python -m pytest -q --dist loadfile --no-loadscope-reorder

test: .venv/dev    ## All tests, but those in a browser
	$(PYTEST) -n 4 tests/processes tests/integration tests/sources tests/fuzz tests/unit tests/architecture

browser: .venv/dev ## The console in a real browser (Chromium), with a picture of every page
	$(PYTEST) -n 2 tests/browser

soak: .venv/dev    ## The long run: 10,000 histories of every source, a thousand kills under load (four hours on two cores)
	$(BIN)/python -m tests.histories
	$(BIN)/python -m tests.crash

fuzz: .venv/deep   ## An hour each: bodies, translations and the HTTP protocol, guided by coverage
	for target in body translate http; do $(BIN)/python -m tests.fuzz $$target $(SECONDS_EACH) || exit 1; done
SECONDS_EACH := 3600

mutants: .venv/deep ## Change signatures, bodies, merge and retry piece by piece: an error where no test notices (ten minutes)
	rm -rf mutants
	$(BIN)/mutmut run
	$(BIN)/python -m tests.fuzz.mutants

check: .venv/dev   ## Lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev  ## Format the code, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/dev   ## Side by side: the door, the worker, the memory
	$(BIN)/python -m tests.bench

pin: .venv/dev     ## Write both lists of requirements anew, with hashes
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile $(PIN) pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile $(PIN) --group dev pyproject.toml -c requirements.txt -o tests/requirements.txt
	$(BIN)/uv pip compile $(PIN) --group deep -c tests/requirements.txt -o tests/fuzz/requirements.txt
PIN := --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header

clean:          ## Take away what make made
	rm -rf .venv .dev build mutants *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/made:
	@[ -n "$(PYTHON)" ] || { echo "Doorbell needs Python 3.11 or newer; none was found." >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "$(PYTHON) cannot make a venv; on Debian: apt install python3-venv." >&2; exit 1; }
	@touch $@

# The command `doorbell` without a build: a build would fetch tools that no hash pins.
.venv/run: .venv/made requirements.txt Makefile
	@echo "installing what runs, into .venv …"
	@$(INSTALL) -r requirements.txt
	@printf '#!/bin/sh\nexec "%s" -P -c "import sys; sys.path.insert(0, \\"%s\\"); from app.cli import main; main(prog_name=\\"doorbell\\")" "$$@"\n' \
		"$(CURDIR)/$(BIN)/python" "$(CURDIR)" > $(BIN)/doorbell && chmod +x $(BIN)/doorbell
	@touch $@

.venv/dev: .venv/run tests/requirements.txt
	@echo "installing what tests and checks, into .venv …"
	@$(INSTALL) -r tests/requirements.txt
	@touch $@

.venv/deep: .venv/dev tests/fuzz/requirements.txt
	@$(INSTALL) -r tests/fuzz/requirements.txt
	@touch $@
