//! What agent, freezer and guard say to each other: one line each, words and numbers. Pure.

use std::fmt::{self, Display};
use std::time::Duration;

/// What a freezer or a guard is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// To the freezer: freeze all, for so long at most.
    Freeze { hold_max: Duration },
    /// To the freezer: thaw all.
    Thaw,
    /// To the guard: all may be frozen from now on, for so long at most.
    Arm { hold_max: Duration },
    /// To the guard: all are thawed.
    Disarm,
}

/// What it answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// It can be asked.
    Ready,
    /// The guard: it is armed.
    Armed,
    /// All are frozen.
    Frozen,
    /// All were frozen until they were thawed as asked. Microseconds from the first freeze to the last thaw.
    Held { micros: u64 },
    /// They were thawed before, because the deadline passed or somebody else did it.
    Late,
    /// The guard is gone; all are thawed.
    Unguarded,
    /// Nothing is frozen.
    Failed(Trouble),
}

/// What failed, with the place of the filesystem in the list and the number of the system's error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trouble {
    pub step: Step,
    pub index: usize,
    pub number: i32,
}

/// What was tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// To keep the program in memory.
    Lock,
    /// To begin the guard.
    Guard,
    /// To open a filesystem.
    Open,
    /// To find the root of a filesystem there.
    Root,
    /// To write what is unwritten.
    Sync,
    /// To write it fast enough.
    Busy,
    /// To freeze.
    Freeze,
}

const STEPS: [(Step, &str); 7] = [
    (Step::Lock, "lock"),
    (Step::Guard, "guard"),
    (Step::Open, "open"),
    (Step::Root, "root"),
    (Step::Sync, "sync"),
    (Step::Busy, "busy"),
    (Step::Freeze, "freeze"),
];

impl Trouble {
    pub const fn new(step: Step, index: usize, number: i32) -> Self {
        Self {
            step,
            index,
            number,
        }
    }
}

impl Step {
    /// The word for it.
    pub fn word(self) -> &'static str {
        let found = STEPS.iter().find(|(step, _)| *step == self);
        found.map_or("", |(_, word)| word)
    }
}

impl Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Freeze { hold_max } => write!(f, "freeze {}", hold_max.as_micros()),
            Self::Thaw => f.write_str("thaw"),
            Self::Arm { hold_max } => write!(f, "arm {}", hold_max.as_micros()),
            Self::Disarm => f.write_str("disarm"),
        }
    }
}

impl Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Armed => f.write_str("armed"),
            Self::Frozen => f.write_str("frozen"),
            Self::Held { micros } => write!(f, "held {micros}"),
            Self::Late => f.write_str("late"),
            Self::Unguarded => f.write_str("unguarded"),
            Self::Failed(trouble) => {
                let (step, index) = (trouble.step.word(), trouble.index);
                write!(f, "failed {step} {index} {}", trouble.number)
            }
        }
    }
}

impl Order {
    /// Reads a line; `None` if it is none.
    pub fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let hold_max = |micros: &str| Some(Duration::from_micros(micros.parse().ok()?));
        match words[..] {
            ["freeze", micros] => Some(Self::Freeze {
                hold_max: hold_max(micros)?,
            }),
            ["thaw"] => Some(Self::Thaw),
            ["arm", micros] => Some(Self::Arm {
                hold_max: hold_max(micros)?,
            }),
            ["disarm"] => Some(Self::Disarm),
            _ => None,
        }
    }
}

impl Answer {
    /// Reads a line; `None` if it is none.
    pub fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["ready"] => Some(Self::Ready),
            ["armed"] => Some(Self::Armed),
            ["frozen"] => Some(Self::Frozen),
            ["held", micros] => Some(Self::Held {
                micros: micros.parse().ok()?,
            }),
            ["late"] => Some(Self::Late),
            ["unguarded"] => Some(Self::Unguarded),
            ["failed", step, index, number] => {
                let (step, _) = STEPS.iter().find(|(_, word)| *word == step)?;
                let (index, number) = (index.parse().ok()?, number.parse().ok()?);
                Some(Self::Failed(Trouble::new(*step, index, number)))
            }
            _ => None,
        }
    }
}
