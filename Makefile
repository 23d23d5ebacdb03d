# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-bench
PEERS_STAMP := $(PEERS)/.installed
SERVERS := infinity triton batch-inference mosec litserve fastapi
SERVERS_STAMP := .venv-bench-serving/.installed
PROTOS := $(wildcard proto/*/*/*.proto)
KERNELS := bertd/kernels/libbertd_kernels.so

.PHONY: install kernels kernels-fuzz demo test packaging check proto docs bench-engine bench-serving bench-accuracy bench-adapters endurance gpu clean

install: $(STAMP) kernels

# pip >= 25.1 knows dependency groups. torch comes first, pinned, so that nothing pulls another one.
# The demo's model package asks for sentence-transformers, which bertd does not need.
# pip leaves the kernels out because the next rule builds them, again only what has changed.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group torch
	$(BIN)/python -m pip install --quiet --editable '.[train]' --group dev --group bench \
		--config-settings wheel.cmake=false
	$(BIN)/python -m pip install --quiet --no-deps --group demo
	touch $(STAMP)

kernels: $(KERNELS)

# Without a compiler bertd works too, slowly; with one, kernels that do not compile are an error.
# The objects lie in the environment, so that a copied checkout never meets another one's.
$(KERNELS): CMakeLists.txt bertd/kernels/native $(wildcard bertd/kernels/native/*) | $(STAMP)
	@if command -v "$${CXX:-c++}" > /dev/null; then set -ex; \
		$(BIN)/cmake -S . -B $(VENV)/kernels -D BERTD_WARNINGS_AS_ERRORS=ON; \
		$(BIN)/cmake --build $(VENV)/kernels --parallel "$$(nproc)"; \
		$(BIN)/cmake --install $(VENV)/kernels; \
		touch $@; \
	else echo "There is no C++ compiler: bertd runs without its kernels, slowly."; fi

# Random shapes under sanitizers, for those who change the kernels; takes minutes.
kernels-fuzz: $(STAMP)
	set -ex; for sanitizers in address,undefined thread; do \
		$(BIN)/cmake -S . -B $(VENV)/fuzz/$$sanitizers -D BERTD_SANITIZE=$$sanitizers; \
		$(BIN)/cmake --build $(VENV)/fuzz/$$sanitizers --parallel "$$(nproc)"; \
		$(VENV)/fuzz/$$sanitizers/bertd_kernels; \
	done

demo: install
	$(BIN)/python examples/quickstart/demo.py

test: install
	$(BIN)/python -m pytest

# Builds the package as users get it, and installs it where there is no compiler.
packaging: install
	$(BIN)/python -m pytest -m packaging

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

proto: install
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. --grpc_python_out=. $(PROTOS)

docs: install
	$(BIN)/python -m docs.generate

# The engines that bertd is compared with; nothing but this benchmark needs them.
$(PEERS_STAMP): pyproject.toml
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(PEERS)/bin/python -m pip install --quiet --group torch
	$(PEERS)/bin/python -m pip install --quiet --group bench-engine
	touch $(PEERS_STAMP)

bench-engine: install $(PEERS_STAMP)
	$(BIN)/python -m benchmarks.engine

# The servers that bertd is compared with: each in an environment of its own, for they disagree.
$(SERVERS_STAMP): pyproject.toml
	set -e; for name in $(SERVERS); do \
		$(PYTHON) -m venv .venv-bench-serving/$$name; \
		.venv-bench-serving/$$name/bin/python -m pip install --quiet --upgrade 'pip>=25.1'; \
		.venv-bench-serving/$$name/bin/python -m pip install --quiet --group bench-serving-$$name; \
	done
	touch $(SERVERS_STAMP)

bench-serving: install $(PEERS_STAMP) $(SERVERS_STAMP)
	$(BIN)/python -m benchmarks.serving

# DATA is a folder with the published data sets, NER one with a tagger of CoNLL-2003's tags.
bench-accuracy: install
	@test -n "$(DATA)" || { echo "make bench-accuracy DATA=FOLDER [NER=FOLDER]"; exit 2; }
	$(BIN)/python -m benchmarks.accuracy --data "$(DATA)" $(if $(NER),--ner "$(NER)")

bench-adapters: install
	$(BIN)/python -m benchmarks.adapters
	$(BIN)/python -m benchmarks.adapters --base minilm
	$(BIN)/python -m benchmarks.adapters.fleet

endurance: install
	$(BIN)/python -m benchmarks.endurance

# On a machine with a GPU; elsewhere every test is skipped and nothing is measured.
gpu: install
	$(BIN)/python -m pytest tests/gpu
	$(BIN)/python -m benchmarks.gpu

clean:
	rm -rf $(VENV) $(PEERS) .venv-bench-serving .bench .demo build dist $(KERNELS)
