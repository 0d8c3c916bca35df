# Two commands do everything: `make demo` and `make test`. A Rust toolchain, git and curl are all they need to start.

.PHONY: demo run test check bench instructions soak fuzz audit

# Relay and sandbox in one process, traffic as the SDKs send it, and a table of where it went. Needs no accounts.
demo:
	cargo run --release --locked -- demo

# The configuration that `make run` serves; copy mixrelay.example.yaml there first.
CONFIG ?= mixrelay.yaml

# The relay itself, in this terminal until Ctrl-C.
run:
	cargo run --release --locked -- serve --config $(CONFIG)

# Property tests draw the same cases every time, so that a red run says something of the change; with another number they
# draw others, and with PROPTEST_CASES more.
PROPTEST_RNG_SEED ?= 20261124
export PROPTEST_RNG_SEED

# Formatting, lints and every test, with Mixpanel's own SDKs and a browser: what they need is installed first.
test: check
	tests/setup.sh
	cargo test --locked

check:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

# The conservation rig (tests/it/conservation), one round after another for MINUTES, with the seeds from SEED on. A round
# that fails prints its seed. See docs/proof.md.
SEED ?= 1
MINUTES ?= 60
soak:
	MIXRELAY_SOAK_SEED=$(SEED) MIXRELAY_SOAK_MINUTES=$(MINUTES) MIXRELAY_SOAK_SPENDS=1 \
	cargo test --locked --test it -- conservation --nocapture

# One target of fuzz/ for MINUTES, from what is kept for it: `make fuzz TARGET=ingestion MINUTES=60`. Wants a nightly
# toolchain and cargo-fuzz. What it finds on its way stays in fuzz/found; an input that fails is written to fuzz/artifacts,
# and belongs, with a name, in fuzz/regressions, which `make test` replays.
TARGET ?= ingestion
fuzz:
	mkdir -p fuzz/found/$(TARGET) fuzz/regressions/$(TARGET)
	cd fuzz && nice -n 19 cargo +nightly fuzz run -O --fuzz-dir . $(TARGET) found/$(TARGET) corpus/$(TARGET) regressions/$(TARGET) \
		-- -max_total_time=$$(($(MINUTES) * 60)) -rss_limit_mb=1024 -malloc_limit_mb=512 -timeout=10 -max_len=65536

# Licences, sources and banned crates of everything that is linked in, by deny.toml, and known vulnerabilities, whose database
# cargo-deny fetches: ADVISORIES=no leaves them out where there is no way to it. Wants `cargo install --locked cargo-deny`.
ADVISORIES ?= yes
audit:
	cargo deny --locked check bans licenses sources $(if $(filter yes,$(ADVISORIES)),advisories)

# The relay against nginx, a bare axum handler and bare parsing, as ratios within one run; about eight minutes. See
# docs/performance.md. BACKLOG_GIB sets the size of the backlog (1).
bench:
	tests/setup.sh bench
	cargo bench --locked --bench relay

# Instructions a record under callgrind, compared with benches/relay/instructions.txt: red when one has grown by more than a
# tenth. UPDATE_INSTRUCTIONS=1 writes them down. Says so and does nothing where valgrind is missing.
instructions:
	@if command -v valgrind >/dev/null; then cargo bench --locked --profile instructions --bench relay -- instructions; \
	else echo "SKIPPED: instructions are counted by valgrind, which is not installed"; fi
