//! A replica as its server tells of it: how it stands, what its target was asked for, what that costs.

use everpoint_units::WallTime;
use everpoint_wire::control::{ReplicaDay, ServerReplica};
use serde::Serialize;

use crate::output::{self, Table};

/// Microseconds of a day.
const DAY_US: u64 = 86_400_000_000;

/// See the module.
#[derive(Debug, Serialize)]
pub(crate) struct Replica {
    url: String,
    state: String,
    trouble: Option<String>,
    applied_through: u64,
    level: bool,
    staged_bytes: u64,
    window_ms: u64,
    days: Vec<Day>,
    currency: Option<String>,
}

/// What the target was asked for on one day, UTC.
#[derive(Debug, Serialize)]
struct Day {
    day: String,
    writes: u64,
    reads: u64,
    others: u64,
    deletes: u64,
    bytes_in: u64,
    bytes_out: u64,
    /// Millionths of a unit of the currency.
    cost_micros: u64,
}

impl Replica {
    pub(crate) fn of(replica: &ServerReplica) -> Self {
        let said = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        Self {
            url: replica.url.clone(),
            state: replica.state.clone(),
            trouble: said(&replica.trouble),
            applied_through: replica.applied_through,
            level: replica.level,
            staged_bytes: replica.staged_bytes,
            window_ms: replica.window_ms,
            days: replica.days.iter().map(Day::of).collect(),
            currency: said(&replica.currency),
        }
    }

    /// How it stands, and what it was asked for by day.
    pub(crate) fn lines(&self) -> String {
        let mut facts = Table::plain();
        facts.row(["replica", &self.url]);
        facts.row(["state", self.word()]);
        facts.row(["applied through", &format!("seq:{}", self.applied_through)]);
        facts.row(["waiting", &output::bytes(self.staged_bytes)]);
        facts.row(["window", &format!("{} ms", self.window_ms)]);
        if let Some(trouble) = &self.trouble {
            facts.row(["trouble", trouble]);
        }
        let mut days = Table::new(&[
            "day", "writes", "reads", "others", "deletes", "in", "out", "cost",
        ]);
        for day in &self.days {
            days.row([
                day.day.as_str(),
                &day.writes.to_string(),
                &day.reads.to_string(),
                &day.others.to_string(),
                &day.deletes.to_string(),
                &output::bytes(day.bytes_in),
                &output::bytes(day.bytes_out),
                &self.cost(day),
            ]);
        }
        format!("{}\n{}", facts.render(), days.render())
    }

    fn cost(&self, day: &Day) -> String {
        match &self.currency {
            None => "-".to_owned(),
            Some(currency) => format!(
                "{}.{:06} {currency}",
                day.cost_micros / 1_000_000,
                day.cost_micros % 1_000_000
            ),
        }
    }

    fn word(&self) -> &str {
        if self.state == "following" && !self.level {
            "copying"
        } else {
            &self.state
        }
    }
}

impl Day {
    fn of(day: &ReplicaDay) -> Self {
        let at = WallTime(day.day.saturating_mul(DAY_US)).to_string();
        Self {
            day: at.split('T').next().unwrap_or_default().to_owned(),
            writes: day.writes,
            reads: day.reads,
            others: day.others,
            deletes: day.deletes,
            bytes_in: day.bytes_in,
            bytes_out: day.bytes_out,
            cost_micros: day.cost_micros,
        }
    }
}

/// Replicas by disk, a line each.
pub(crate) fn table(replicas: &[(&str, &Replica)]) -> String {
    let mut table = Table::new(&[
        "disk",
        "replica",
        "state",
        "applied through",
        "waiting",
        "window",
        "trouble",
    ]);
    for (disk, replica) in replicas {
        table.row([
            *disk,
            &replica.url,
            replica.word(),
            &format!("seq:{}", replica.applied_through),
            &output::bytes(replica.staged_bytes),
            &format!("{} ms", replica.window_ms),
            replica.trouble.as_deref().unwrap_or(""),
        ]);
    }
    table.render()
}
