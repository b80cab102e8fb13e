//! Logs and panics: both go to stderr, and a panic ends the process.

use std::io::{self, IsTerminal as _};
use std::panic;

use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Sends logs to stderr: lines for people on a terminal, JSON lines elsewhere.
///
/// # Errors
///
/// A filter that cannot be understood.
pub(crate) fn start(filter: Option<&str>, default: &str) -> Result<(), Failure> {
    let text = filter.unwrap_or(default);
    let filter = EnvFilter::builder().parse(text).map_err(|error| {
        Failure::usage(format!("--log {text:?}: {error}")).help(
            "write a level, as in --log debug, or one for a part, as in --log info,quinn=warn",
        )
    })?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    if io::stderr().is_terminal() {
        logs.init();
    } else {
        logs.json().with_ansi(false).init();
    }
    Ok(())
}

/// Makes a panic anywhere the end of the process: what is promised is on the medium, and half a process
/// would promise things that it cannot keep.
pub(crate) fn abort_on_panic() {
    panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let message = info.payload_as_str().unwrap_or("no message");
        let backtrace = std::backtrace::Backtrace::capture();
        if tracing::enabled!(tracing::Level::ERROR) {
            tracing::error!(thread, place, message, %backtrace, "panic: the process ends");
        } else {
            eprintln!("panic in {thread} at {place}: {message}");
        }
        std::process::abort();
    }));
}
