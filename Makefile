# make demo      everything, end to end, on data that it draws itself (4 minutes on 2 cores)
# make test      every test but the slow ones, and the linters
# make test-all  the slow tests too
#
# All of them first make .venv, with what requirements.lock pins. Needs Python 3.11 or newer.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin

.PHONY: demo test test-all check lock clean

demo: .venv/installed
	@$(BIN)/python -m benchmarks.end_to_end demo --output=demo

test: .venv/installed check
	$(BIN)/python -m pytest -m "not slow"

test-all: .venv/installed check
	$(BIN)/python -m pytest

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# uv, where it is there and works, installs in seconds what takes pip a minute or two. Either gives
# the same versions.
.venv/installed: setup.py requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else \
	  f"Python 3.11 to 3.13 is needed, and {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.11")'
	@echo "Installing TensorFlow, Beam and the rest into .venv; with pip this takes a minute or two"
	$(PYTHON) -m venv .venv
	@set -x; { command -v uv > /dev/null && \
	    uv pip install --quiet --python $(BIN)/python -c requirements.lock -e '.[test]'; } || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    -c requirements.lock -e '.[test]'
	@touch $@

# Resolves setup.py anew, in an environment that knows nothing of the pins before, and writes what
# came out.
lock:
	@set -eux; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	  $(PYTHON) -m venv "$$folder"; \
	  "$$folder/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[test]'; \
	  head -n 1 requirements.lock > "$$folder/lock"; \
	  "$$folder/bin/python" -m pip freeze --all --exclude-editable --exclude pip > "$$folder/frozen"; \
	  tr A-Z_ a-z- < "$$folder/frozen" | LC_ALL=C sort -t= -k1,1 >> "$$folder/lock"; \
	  cp "$$folder/lock" requirements.lock

clean:
	rm -rf .venv demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
