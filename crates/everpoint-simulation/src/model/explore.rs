//! Exploring a model: every state that it can come to, breadth first, and what was found.

use std::fmt::{self, Debug};
use std::hash::Hash;
use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// States that are made, the same one again and again included.
    pub generated_max: usize,
    /// Threads. With one, the first trace found is a shortest one.
    pub threads: usize,
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub name: &'static str,
    /// States made, and how many of them differ.
    pub generated: usize,
    pub distinct: usize,
    /// Steps from the first state to the farthest one.
    pub depth: usize,
    pub elapsed: Duration,
    /// Every state was seen; otherwise the search was bounded.
    pub closed: bool,
    pub violation: Option<Violation>,
    /// What was to come about somewhere and did not.
    pub not_reached: Vec<&'static str>,
}

/// A property that does not hold, and the steps to where it does not.
#[derive(Clone, Debug)]
pub struct Violation {
    pub property: &'static str,
    pub steps: Vec<String>,
}

/// Explores `model` until it is exhausted, a property fails, or a limit is reached.
pub(crate) fn explore<M>(name: &'static str, model: M, limits: Limits) -> Outcome
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    let begun = Instant::now();
    let properties: Vec<_> = model.properties();
    let checker = model
        .checker()
        .threads(limits.threads)
        .target_state_count(limits.generated_max)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let elapsed = begun.elapsed();
    let mut found = checker.discoveries();
    let mut violation: Option<Violation> = None;
    let mut not_reached = Vec::new();
    for property in &properties {
        let path = found.remove(property.name);
        match (&property.expectation, path) {
            (Expectation::Sometimes, None) => not_reached.push(property.name),
            (Expectation::Sometimes, Some(_)) | (_, None) => (),
            (_, Some(path)) => {
                let steps = path.into_actions();
                let steps: Vec<_> = steps.iter().map(|step| format!("{step:?}")).collect();
                let shorter = violation
                    .as_ref()
                    .is_none_or(|v| steps.len() < v.steps.len());
                if shorter {
                    let property = property.name;
                    violation = Some(Violation { property, steps });
                }
            }
        }
    }
    let generated = checker.state_count();
    Outcome {
        name,
        generated,
        distinct: checker.unique_state_count(),
        depth: checker.max_depth(),
        elapsed,
        closed: violation.is_none() && generated < limits.generated_max,
        violation,
        not_reached,
    }
}

/// What several searches come to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub worlds: usize,
    pub closed: usize,
    pub violated: usize,
    pub generated: usize,
    pub distinct: usize,
}

impl Totals {
    /// Adds up what was found.
    pub fn of(outcomes: &[Outcome]) -> Self {
        outcomes.iter().fold(Self::default(), |sum, outcome| Self {
            worlds: sum.worlds + 1,
            closed: sum.closed + usize::from(outcome.closed),
            violated: sum.violated + usize::from(outcome.violation.is_some()),
            generated: sum.generated + outcome.generated,
            distinct: sum.distinct + outcome.distinct,
        })
    }
}

impl Outcome {
    /// The heading of a table of outcomes.
    pub fn heading() -> String {
        format!(
            "{:<44} {:>11} {:>11} {:>6} {:>8}  found",
            "world", "distinct", "generated", "depth", "seconds"
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        write!(
            f,
            "{:<44} {:>11} {:>11} {:>6} {seconds:>8.1}  ",
            self.name, self.distinct, self.generated, self.depth
        )?;
        match &self.violation {
            Some(found) => write!(
                f,
                "FAILS in {} steps: {}",
                found.steps.len(),
                found.property
            ),
            None if self.closed => write!(f, "holds, closed"),
            None => write!(f, "holds, bounded"),
        }
    }
}
