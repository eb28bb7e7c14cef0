# The two commands of the README, and the steps of the second.

# Where cargo puts what it builds.
TARGET := $(or $(CARGO_TARGET_DIR),target)
ALL := --workspace --all-features

.PHONY: run test install lint it doc subject bench bench-peers bench-compare bench-growth bench-metrics
.PHONY: connection-test benchmark integration-test

## The quickstart, on the embedded default: nothing to install but cargo.
run:
	cargo run

## All checks and tests. Installs or builds what they need first.
test: install lint it doc subject

## Redis, Postgres, cargo-nextest, and container images where an engine runs (idempotent).
install:
	session-testkit/scripts/install.sh

lint:
	cargo fmt --all --check
	cargo clippy $(ALL) --all-targets -- -D warnings
	for one in redis postgres sqlite memory; do \
	    cargo clippy -p session-layer --no-default-features --features $$one -- -D warnings || exit 1; done

## All tests. Most share one pair of servers. A test that breaks a server starts its own.
it:
	cargo build $(ALL) --all-targets
	$(TARGET)/debug/session-testkit run --all-backends -- cargo nextest run $(ALL)
	$(TARGET)/debug/session-testkit run -- cargo test $(ALL) --doc

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc $(ALL) --no-deps

## session-testkit pointed at tower-sessions: it must find its bugs, and none of ours. A lockfile of its own, so a
## target folder of its own.
SUBJECT := examples/subject-tower-sessions
subject: export CARGO_TARGET_DIR = $(abspath $(TARGET))/subject-tower-sessions
subject:
	cd $(SUBJECT) && cargo fmt --check
	cd $(SUBJECT) && cargo clippy -- -D warnings
	$(SUBJECT)/test.sh

## Connects to the servers of REDIS_URL and DATABASE_URL, PINGs them, and prints what is wrong. Changes one key of its own.
connection-test:
	cargo run -p sessionctl -- check

## The cache beside Postgres alone, against the goals, on servers that it starts and stops.
benchmark:
	cargo run --release -p session-testkit -- bench

## All stages on servers that it starts: connection, benchmark, caching, health, errors and fallback.
integration-test:
	cargo run --release -p session-testkit -- verify

## Ratios on real servers: criterion's, and validations beside bare commands as a table, in docs/measured.md too.
bench:
	cargo build -p session-testkit
	$(TARGET)/debug/session-testkit run -- cargo bench -p session-benches
	$(TARGET)/debug/session-testkit run -- cargo run --release -p session-benches --bin validations -- --write docs/measured.md

## session-layer beside other session crates, in docs/measured.md too. Apart from `bench`, because it builds a workspace
## of its own with its own lockfile.
bench-peers:
	cargo build -p session-testkit
	cargo build --release --manifest-path benches/peers/Cargo.toml --target-dir $(TARGET)/peers
	$(TARGET)/debug/session-testkit run -- $(TARGET)/peers/release/session-peers --write docs/measured.md

## The validations of this checkout beside those of another revision, such as BASE=origin/main. Fails if they are slower.
bench-compare:
	benches/compare.sh $(BASE)

## The validations of a build with metrics, published and scraped every second, beside those of a build without.
bench-metrics:
	cargo build -p session-testkit
	cargo build --release -p session-benches --bin validations --bin compare
	cp $(TARGET)/release/validations $(TARGET)/release/validations-without-metrics
	cargo build --release -p session-benches --features metrics --bin validations
	$(TARGET)/debug/session-testkit run -- $(TARGET)/release/compare \
		$(TARGET)/release/validations-without-metrics $(TARGET)/release/validations

## How costs grow with sessions, callers, data and nodes, as tables in docs/measured.md and as a plot.
bench-growth:
	cargo build -p session-testkit
	$(TARGET)/debug/session-testkit run -- cargo run --release -p session-benches --bin growth -- \
		--write docs/measured.md --svg docs/growth.svg
