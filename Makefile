# `make demo` and `make test` install what they need first; both want root (network namespaces).
VENV ?= .venv
NEWEST ?= .venv-newest
BIN := $(VENV)/bin
PYTHON := $(BIN)/python
LEVELS := $(wildcard tests/unit tests/packet tests/interop tests/lab)

.PHONY: help image demo demo-k8s test check bench bench-large bench-long soak upgrade cilium kvstoremesh hubble e2e lab clean-lab build install unit lock docs test-newest

help:
	@echo "make demo       the lab with two clusters, shown step by step (root)"
	@echo "make demo-k8s   two clusters of Kubernetes, shown step by step (Go, root)"
	@echo "make test       all tests (root)         make unit    those without root"
	@echo "make check      linters, types, imports, formats, warnings"
	@echo "make bench      figures, into BENCH.md   make soak    the kill tests in full length"
	@echo "make bench-large    the same with clusters of 150,000 pods, some minutes more"
	@echo "make bench-long     and with queries, new flows and floods in full length, half an hour"
	@echo "make lock       write requirements.lock and requirements-dev.lock anew from pyproject.toml"
	@echo "make test-newest    unit and interop with the newest Python packages (root)"
	@echo "make docs       write docs/findings.md, objects.md, host.md, deploy/crds from the sources"
	@echo "make cilium     Cilium's own code reads our store under churn for ten minutes (Go)"
	@echo "make e2e        on real Kubernetes, SUITE=smoke, killed, whole, conformance, dualstack,"
	@echo "                beside-bridge, kube-router, beside-kube-router or all (Go, root; the first"
	@echo "                build takes 15 minutes)"
	@echo "make kvstoremesh    Cilium's kvstoremesh between our store and a Cilium cluster's (Go)"
	@echo "make hubble     Hubble's relay and command line on the agents of a lab (Go, root)"
	@echo "make upgrade    agents of a former commit are replaced under traffic, and come back (root)"
	@echo "make image      the container image, as build/meshgate-image.tar (root)"
	@echo "make lab        bring the lab up         make clean-lab    remove it, also after a crash"

install:
	@VENV=$(VENV) deploy/install.sh

build: install
	@$(PYTHON) -m bpf.build
	@$(PYTHON) -m deploy.cni.build

# The container image, with no container engine (root).
image: build
	@$(PYTHON) -m deploy.image

demo: build
	@$(PYTHON) -m mesh.lab.demo

# Two real clusters, with Meshgate by its chart.
demo-k8s: build
	@VENV=$(VENV) deploy/install.sh kube
	@$(PYTHON) -m mesh.lab.kube.demo

test: build
	@$(PYTHON) tests/run.py $(LEVELS)

# What is written from the sources.
docs: install
	@mkdir -p docs
	@$(PYTHON) -m mesh.findings > docs/findings.md
	@$(PYTHON) -m mesh.objects.kinds > docs/objects.md
	@$(PYTHON) -m mesh.host.document > docs/host.md
	@$(PYTHON) -m mesh.objects.crds deploy/crds

unit: install
	@$(PYTHON) -m pytest -q tests/unit

# Debian's Python, which every machine of ours has: the lock may be what keeps .venv from being made.
lock:
	@/usr/bin/python3 -m deploy.lock

test-newest:
	@VENV=$(NEWEST) deploy/install.sh newest
	@$(NEWEST)/bin/python -m bpf.build
	@$(NEWEST)/bin/python tests/run.py tests/unit tests/interop

soak: build
	@VENV=$(VENV) deploy/install.sh soak
	@MESHGATE_SOAK=1 $(PYTHON) tests/run.py tests/lab tests/upgrade tests/fuzz \
		tests/packet/test_conformance.py tests/packet/test_two_owners.py \
		tests/interop/test_any_bytes.py tests/interop/test_fast_peers.py

upgrade: build
	@$(PYTHON) tests/run.py tests/upgrade

cilium: install
	@$(PYTHON) -m tests.tools.cilium.run

e2e: build
	@VENV=$(VENV) deploy/install.sh kube
	@$(PYTHON) -m tests.e2e.run $(SUITE)

kvstoremesh: install
	@$(PYTHON) -m tests.tools.cilium.mirror

hubble: build
	@$(PYTHON) -m tests.tools.cilium.relay

bench: build
	@$(PYTHON) -m tests.bench

bench-large: build
	@MESHGATE_BENCH_LARGE=1 $(PYTHON) -m tests.bench

bench-long: build
	@MESHGATE_BENCH_LARGE=1 MESHGATE_BENCH_LONG=1 $(PYTHON) -m tests.bench

lab: build
	@$(BIN)/meshgate lab up

clean-lab: install
	@$(BIN)/meshgate lab down --force

check: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config importlinter.ini
	clang-format --dry-run -Werror bpf/*.bpf.c bpf/include/*.h deploy/cni/*.c
	$(BIN)/codespell
