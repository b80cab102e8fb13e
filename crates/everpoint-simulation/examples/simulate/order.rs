//! What the command line asks for.

/// How it is called.
pub(crate) const USAGE: &str = "\
simulate [--seeds N] [--from S] [--no-shrink] [--record FILE] [--commit TEXT]
simulate --seed S [--trace | --shrink] [--commit TEXT]";

/// What is to be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Task {
    Many,
    Story(u64),
    Shrink(u64),
}

#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) task: Task,
    pub(crate) from: u64,
    pub(crate) seeds: u64,
    /// Whether the first plan of many that fails is made smaller.
    pub(crate) shrinks: bool,
    /// Where the counts are written.
    pub(crate) record: Option<String>,
    /// What was built, for what is reported.
    pub(crate) commit: String,
}

impl Order {
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut order = Self {
            task: Task::Many,
            from: 0,
            seeds: 1_000,
            shrinks: true,
            record: None,
            commit: "unknown".to_owned(),
        };
        let (mut seed, mut shrink, mut trace) = (None, false, false);
        let mut args = args;
        while let Some(flag) = args.next() {
            let mut value = || {
                let value = args.next();
                value.ok_or_else(|| format!("{flag} wants a value: {flag} VALUE"))
            };
            match flag.as_str() {
                "--from" => order.from = number(&flag, &value()?)?,
                "--seeds" => order.seeds = number(&flag, &value()?)?,
                "--seed" => seed = Some(number(&flag, &value()?)?),
                "--record" => order.record = Some(value()?),
                "--commit" => order.commit = value()?,
                "--shrink" => shrink = true,
                "--no-shrink" => order.shrinks = false,
                // A single seed is told as a story anyway.
                "--trace" => trace = true,
                _ => return Err(format!("{flag}: no such flag")),
            }
        }
        order.task = match (seed, shrink) {
            (Some(_), true) if trace => {
                return Err("--trace and --shrink are two runs: choose one".to_owned());
            }
            (Some(seed), true) => Task::Shrink(seed),
            (Some(seed), false) => Task::Story(seed),
            (None, false) if !trace => Task::Many,
            (None, _) => {
                return Err("--trace and --shrink want one seed: add --seed S".to_owned());
            }
        };
        if order.record.is_some() && order.task != Task::Many {
            return Err("--record counts many seeds: leave out --seed".to_owned());
        }
        Ok(order)
    }
}

fn number(flag: &str, value: &str) -> Result<u64, String> {
    value
        .parse()
        .map_err(|_| format!("{flag} wants a whole number, not {value:?}"))
}
