# A thin layer over the fairlead-e2e binary, so that every target works from a clean checkout.

# Builds are kept outside of the checkout, so that the next clean one is quick.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/fairlead
export CARGO_TARGET_DIR ?= $(CACHE)/target
# What makes the second build of one checkout quicker fills the cache with gigabytes for each checkout that never has one.
export CARGO_INCREMENTAL ?= 0

# The durations that `make bench` prints begin here, with the build of what runs the rest.
export FAIRLEAD_BEGAN := $(shell date +%s)

E2E = cargo run --quiet --locked --package fairlead-e2e --

.DEFAULT_GOAL := help
.PHONY: help cli demo test fuzz e2e manifests cluster load down bench bench-proxy bench-canary images tools

help:
	@echo 'make demo                 a cluster, the mesh on it, and a canary released through it'
	@echo 'make test                 every test, those on a real cluster too'
	@echo 'make fuzz                 what strangers may send, made up; TARGET=request SECONDS=600 for one and longer, INPUT=file for a failure'
	@echo 'make e2e TEST=canary      the tests on a cluster that is up, only those whose name contains TEST'
	@echo 'make cluster              a Kubernetes of two nodes on this machine (.cluster/kubeconfig, .cluster/bin/kubectl)'
	@echo 'make load IMAGE=app.tar   bring your own image onto its nodes'
	@echo 'make images               build the images of this checkout and bring them onto its nodes'
	@echo 'make cli                  build the fairlead command; prints where it is'
	@echo 'make down                 end the cluster; PURGE=1 removes its data in .cluster as well'
	@echo 'make manifests            print the definitions of crds/ into manifests/'
	@echo 'make bench                measure and print speed and size; ONLY=A,C QUICK=1 for a part, see docs/performance.md'
	@echo 'make bench-proxy          the same of the data path alone, beside Envoy; needs no cluster'
	@echo 'make bench-canary         simulate releases: how often verdicts are wrong, how many requests they take; QUICK=1 for a minute of it'

demo test cluster images: tools
	@$(E2E) $@

bench: tools
	@$(E2E) bench $(if $(ONLY),--only '$(ONLY)') $(if $(QUICK),--quick)

bench-canary: tools
	@$(E2E) bench --only canary $(if $(QUICK),--quick)

bench-proxy: tools
	@$(E2E) bench --only proxy,growth $(if $(QUICK),--quick)

fuzz: tools
	@$(E2E) fuzz $(if $(TARGET),--target '$(TARGET)') $(if $(SECONDS),--seconds '$(SECONDS)') $(if $(INPUT),--input '$(INPUT)')

e2e: tools
	@$(E2E) mesh $(TEST)

cli: tools
	@cargo build --quiet --locked --release --package fairlead-cli
	@echo "$(CARGO_TARGET_DIR)/release/fairlead"

manifests: tools
	cargo run --quiet --locked --package fairlead-crds > manifests/crds.yaml.new && mv manifests/crds.yaml.new manifests/crds.yaml
	UPDATE_MANIFESTS=1 cargo test --quiet --locked --package fairlead-operator --test manifests

load: tools
	@test -n '$(IMAGE)' || { echo 'say which archive to load: make load IMAGE=app.tar' >&2; exit 2; }
	@$(E2E) load '$(IMAGE)'

down: tools
	@$(E2E) down $(if $(PURGE),--purge)

tools:
	@command -v cc >/dev/null || { echo 'A C compiler is missing: `apt-get install gcc libc6-dev`.' >&2; exit 1; }
	@command -v cargo >/dev/null || { echo 'Rust is missing: get it from https://rustup.rs (rust-toolchain.toml says which).' >&2; exit 1; }
	@test -x "$(CARGO_TARGET_DIR)/debug/fairlead-e2e" || echo 'building fairlead-e2e (first time about 2 min) …' >&2
