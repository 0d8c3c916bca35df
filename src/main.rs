//! The binary: parses the command line, runs what it asks for, and leaves with its exit code.

use std::process::ExitCode;

/// The relay allocates and frees many short-lived buffers of varying size on several threads, which this allocator
/// keeps from fragmenting (P10).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    mixrelay::cli::run(std::env::args_os())
}
