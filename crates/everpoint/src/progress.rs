//! Progress bars: on stderr, and only where somebody looks.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over bytes; it shows nothing where stderr is no terminal.
pub(crate) fn bytes(what: &str) -> ProgressBar {
    styled(
        what,
        "{prefix} {wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}",
    )
}

/// A bar over things.
pub(crate) fn things(what: &str) -> ProgressBar {
    styled(what, "{prefix} {wide_bar} {pos} of {len}  {msg}")
}

fn styled(what: &str, template: &str) -> ProgressBar {
    let bar = if io::stderr().is_terminal() {
        ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
    } else {
        ProgressBar::hidden()
    };
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.expect("a template of our own"));
    bar.set_prefix(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A line that changes.
pub(crate) fn line() -> ProgressBar {
    styled("", "{msg}")
}
