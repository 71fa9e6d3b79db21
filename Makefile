# make demo   a film from the shipped miniature model, from a fresh clone, on any CPU
# make test   the whole test suite
# make lint   ruff and pyright, as pre-commit runs them
# make clean  removes what these made
# Variables: PYTHON (3.11 or newer), PIP_FLAGS (for pip install), PROMPT (for demo), PYTEST_FLAGS (for test)

PYTHON ?= python3
PIP_FLAGS ?=
PYTEST_FLAGS ?=
PROMPT ?= A red ring glides slowly to the right in a meadow, close-up.

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS)

# The TPU compiler of this jax lies apart: beside jax it would be asked for TPUs, loudly, by every program.
LIBTPU := from importlib.metadata import requires; print(next(r.split(";")[0] for r in requires("jax") if r.startswith("libtpu")))

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	$(BIN)/skyreels-jax generate --prompt "$(PROMPT)" --outdir out/demo --sheet --overwrite

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 $(PYTEST_FLAGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf $(VENV) build dist *.egg-info .cache .pytest_cache .ruff_cache .hypothesis out

# Stamps: an install runs again only when the package metadata changed.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "skyreels-jax needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created setup.py pyproject.toml
	$(INSTALL) --editable .
	touch $@

# torch goes first and alone, at the exact version of the parity tests: a range would fetch gigabytes of CUDA.
$(VENV)/.installed-test: $(VENV)/.created setup.py pyproject.toml
	$(INSTALL) torch==2.13.0
	$(INSTALL) --editable '.[test]'
	$(INSTALL) --no-deps --target $(VENV)/tpu "$$($(BIN)/python -c '$(LIBTPU)')"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: $(VENV)/.installed-test
	$(INSTALL) --editable '.[dev]'
	touch $@
