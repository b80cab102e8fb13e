//! Progress bars: on stderr, and only where somebody looks.

use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use everpoint_retention::Progress;
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

/// One bar for each disk, one after the other.
pub(crate) struct Bar {
    what: &'static str,
    pub(crate) bar: ProgressBar,
    disk_index: Mutex<usize>,
}

impl Bar {
    /// A bar over what is done with each disk.
    pub(crate) fn new(what: &'static str) -> Self {
        Self {
            what,
            bar: bytes("reading the history"),
            disk_index: Mutex::new(0),
        }
    }

    /// Shows how far it is.
    pub(crate) fn show(&self, progress: &Progress) {
        let mut index = self
            .disk_index
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *index != progress.disk_index {
            *index = progress.disk_index;
            self.bar.reset();
        }
        let (what, at, of) = if progress.total.0 == 0 {
            let (done, all) = (progress.planned_count, progress.plan_count);
            ("planning", done as u64, all as u64)
        } else {
            (self.what, progress.done.0, progress.total.0)
        };
        let disk = progress.disk_index + 1;
        self.bar
            .set_prefix(format!("{what} disk {disk} of {}", progress.disk_count));
        self.bar.set_length(of);
        self.bar.set_position(at);
    }
}
