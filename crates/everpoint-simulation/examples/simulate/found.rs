//! What is said of a plan that breaks a promise: the smallest that does, its story, and a test that keeps it.

use std::collections::VecDeque;
use std::time::Instant;

use everpoint_simulation::{Plan, shrink, words};

use super::attempt::{attempt, quietly, told};

/// Lines of the story that are shown: its last ones.
const LINES_MAX: usize = 40;

/// Shrinks a plan and tells of the result; `None` if it breaks nothing.
pub(crate) fn report(plan: &Plan, commit: &str) -> Option<String> {
    let began = Instant::now();
    let found = quietly(|| shrink::shrink(plan, shrink::RUNS_MAX, broken))?;
    let took = began.elapsed().as_secs_f64();
    let mut lines = VecDeque::new();
    // What it comes to is known; what is wanted is what is told on the way there.
    let _ = quietly(|| {
        let mut keep = |line| {
            if LINES_MAX <= lines.len() {
                lines.pop_front();
            }
            lines.push_back(line);
        };
        told(&found.plan, Some(&mut keep))
    });
    let seed = plan.seed;
    let story: Vec<String> = lines.into();
    Some(format!(
        "Seed {seed} breaks a promise at commit {commit}: {}\n\
         The smallest plan that breaks it too, after {} runs in {took:.1} s:\n\n\
         {}\n\
         The last lines of its story:\n\n{}\n\n\
         For tests/regressions.rs, once it is mended:\n\n{}\n\
         The whole story: cargo xtask simulate --seed {seed} --trace",
        found.violation,
        found.runs,
        words::told(&found.plan),
        story.join("\n"),
        words::regression(&found.plan, &found.violation),
    ))
}

fn broken(plan: &Plan) -> Option<String> {
    match attempt(plan) {
        Ok(outcome) => outcome.violation.map(|violation| violation.what),
        Err(panic) => Some(panic),
    }
}
