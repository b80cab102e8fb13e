//! Points by the clock. When they are due, and their names, are decided in [`crate::schedule_core`].

use std::sync::Weak;
use std::time::Duration;

use everpoint_format::record::Consistency;
use tokio::time::sleep;

use crate::agent::Inner;
use crate::clock::wall;
use crate::error::CreatePointError;
use crate::schedule_core::{Schedule, name};
use crate::splitter::chain;

/// How often the clock is looked at, at least: it may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Makes the points of one class, until the agent is gone.
pub(crate) async fn run(agent: Weak<Inner>, class: Consistency) {
    let interval_s = match (agent.upgrade(), class) {
        (Some(agent), Consistency::App) => agent.config.points.app_interval_s,
        (Some(agent), _) => agent.config.points.crash_interval_s,
        (None, _) => return,
    };
    let Some(mut schedule) = Schedule::new(interval_s, wall()) else {
        return;
    };
    loop {
        let now = wall();
        let left = Duration::from_micros(schedule.next(now).0.saturating_sub(now.0));
        sleep(left.min(LOOK_AGAIN)).await;
        let Some(due) = schedule.take_due(wall()) else {
            continue;
        };
        let Some(agent) = agent.upgrade() else {
            return;
        };
        let name = name(class, due);
        let made = match class {
            Consistency::App => agent.create_app_point(&name, Duration::ZERO).await,
            _ => agent.create_point(&name, Duration::ZERO).await,
        };
        match made {
            Ok(_) => {}
            // As long as a sync goes on there is no point, and the status says so.
            Err(CreatePointError::NotProtected { .. } | CreatePointError::NoDisk) => {
                tracing::debug!(machine = %agent.machine.id, name, "no point: not every disk is level");
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(machine = %agent.machine.id, name, error, "a scheduled point was not made");
            }
        }
    }
}
