//! One run, whose panics are findings like others.

use std::cell::Cell;
use std::panic::{catch_unwind, set_hook, take_hook};

use everpoint_simulation::{Outcome, Plan, Story, run};

thread_local! {
    /// This thread expects panics, the same one again and again.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// From now on, threads that run [`quietly`] print nothing of their panics.
pub(crate) fn keep_quiet_when_asked() {
    let loud = take_hook();
    set_hook(Box::new(move |panic| {
        if !QUIET.get() {
            loud(panic);
        }
    }));
}

/// Does something whose panics are expected, and caught.
pub(crate) fn quietly<T>(what: impl FnOnce() -> T) -> T {
    QUIET.set(true);
    let answer = what();
    QUIET.set(false);
    answer
}

/// Runs a plan; an error is what it panics with.
pub(crate) fn attempt(plan: &Plan) -> Result<Outcome, String> {
    told(plan, None)
}

/// Runs a plan and hears its story up to the end, or the panic.
pub(crate) fn told<'a>(plan: &'a Plan, story: Option<Story<'a>>) -> Result<Outcome, String> {
    let run = std::panic::AssertUnwindSafe(|| run(plan, story));
    catch_unwind(run).map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        format!("panics: {}", said.unwrap_or("without a word"))
    })
}
