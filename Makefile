# The commands a newcomer needs. Everything but `clean` sets up its own environment first.
#   make demo    the whole story on real input, then an HTML report
#   make test    every test          make check   lint, types, import order and the quick tests
#   make serve   the decision service on a free port, with only the `serve` extra installed
#   make reference  the API reference as HTML, from the docstrings, in build/reference
#   make audit   known vulnerabilities of the pinned versions (asks PyPI; needs the network)
# PYTHON=/path/to/python3.11 chooses the interpreter; TORCH_INDEX_URL=… names PyTorch's CPU wheel
# index where pip would otherwise take the CUDA build.

PYTHON ?= python3.11
VENV ?= .venv
SERVE_VENV ?= .venv-serve
BIN := $(VENV)/bin
TORCH_INDEX_URL ?=
DEMO_ARGS ?=
SERVE_ARGS ?=
PYTEST_ARGS ?=

.PHONY: env demo test check reference audit serve clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@sed -n 's/^#   //p' Makefile

env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt scripts/make_env.sh
	@scripts/make_env.sh "$(PYTHON)" "$(VENV)" "all,test" "$(TORCH_INDEX_URL)"

$(SERVE_VENV)/.installed: pyproject.toml constraints.txt scripts/make_env.sh
	@scripts/make_env.sh "$(PYTHON)" "$(SERVE_VENV)" "serve" ""

demo: env
	@$(BIN)/nextoffer demo $(DEMO_ARGS)

test: env
	@$(BIN)/python scripts/run_tests.py --all $(PYTEST_ARGS)

check: env
	@$(BIN)/python scripts/run_tests.py --check $(PYTEST_ARGS)

reference: env
	@$(BIN)/python scripts/build_reference.py

# Asks PyPI's advisory database about every pin: needs the network, so it is no part of `check`.
audit:
	@test -x .venv-audit/bin/pip-audit || { "$(PYTHON)" -m venv .venv-audit && .venv-audit/bin/pip install -q pip-audit; }
	@.venv-audit/bin/pip-audit --no-deps --disable-pip -r constraints.txt

serve: $(SERVE_VENV)/.installed
	@$(SERVE_VENV)/bin/nextoffer serve $(SERVE_ARGS)

clean:
	rm -rf $(VENV) $(SERVE_VENV) .venv-audit build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
