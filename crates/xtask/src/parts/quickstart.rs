//! The quickstart as a stranger runs it, judged by its exit code and by the figures that it prints.

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::run;
use crate::workspace::Workspace;

/// Bookmarks that the quickstart takes and restores, at least.
const POINTS_MIN: usize = 8;
/// Unmarked positions that it restores, at least.
const PREFIX_CHECKS_MIN: u64 = 20;

/// What of the quickstart's JSON is judged here.
#[derive(Debug, Deserialize)]
struct Verdict {
    writes: u64,
    points: Vec<Point>,
    prefix_checks: PrefixChecks,
    lost_writes: u64,
}

#[derive(Debug, Deserialize)]
struct Point {
    name: String,
    source_digest: String,
    restored_digest: String,
    identical: bool,
}

#[derive(Debug, Deserialize)]
struct PrefixChecks {
    tried: u64,
    held: u64,
}

/// Runs the quickstart in a folder of its own.
///
/// # Errors
///
/// When it fails, prints anything but one JSON object, or that object does not say that all went well.
pub(super) fn check(workspace: &Workspace) -> Result<String> {
    let folder = tempfile::Builder::new()
        .prefix("quickstart-")
        .tempdir_in(&workspace.target)?;
    let mut quickstart = run::command(workspace, workspace.program("everpoint"));
    quickstart
        .current_dir(folder.path())
        .args(["quickstart", "--json", "--dir"])
        .arg(folder.path().join("vault"));
    let printed = run::stdout_of(quickstart)?;
    judge(&printed)
}

fn judge(printed: &str) -> Result<String> {
    let verdict: Verdict = serde_json::from_str(printed)
        .with_context(|| format!("not the JSON that was promised: {printed}"))?;
    for point in &verdict.points {
        if !point.identical || point.source_digest != point.restored_digest {
            bail!("point `{}` is not what the source was", point.name);
        }
    }
    let PrefixChecks { tried, held } = verdict.prefix_checks;
    if held != tried {
        bail!(
            "{} of {tried} unmarked positions do not hold",
            tried.saturating_sub(held)
        );
    }
    if verdict.points.len() < POINTS_MIN || tried < PREFIX_CHECKS_MIN {
        bail!(
            "only {} points and {tried} unmarked positions were tried",
            verdict.points.len()
        );
    }
    if verdict.lost_writes != 0 || verdict.writes == 0 {
        bail!(
            "{} of {} writes are lost",
            verdict.lost_writes,
            verdict.writes
        );
    }
    Ok(format!(
        "{} points and {tried} unmarked positions of {} writes",
        verdict.points.len(),
        verdict.writes
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn good() -> Value {
        let point = json!({
            "name": "b", "seq": 1, "source_digest": "aa", "restored_digest": "aa", "identical": true,
            "restore_ms": 3
        });
        json!({
            "writes": 5000, "bytes_written": 1, "points": vec![point; 8],
            "prefix_checks": {"tried": 20, "held": 20}, "lost_writes": 0
        })
    }

    #[test]
    fn a_quickstart_that_went_well_is_summed_up() {
        let said = judge(&good().to_string()).unwrap();
        assert_eq!(said, "8 points and 20 unmarked positions of 5000 writes");
    }

    #[test]
    fn anything_that_did_not_hold_fails_it() {
        let breakages: [fn(&mut Value); 7] = [
            |json| json["points"][7]["identical"] = json!(false),
            |json| json["points"][0]["restored_digest"] = json!("ab"),
            |json| json["points"] = json!([]),
            |json| json["prefix_checks"]["held"] = json!(19),
            |json| json["prefix_checks"] = json!({"tried": 19, "held": 19}),
            |json| json["lost_writes"] = json!(1),
            |json| json["writes"] = json!(0),
        ];
        for (number, spoil) in breakages.iter().enumerate() {
            let mut json = good();
            spoil(&mut json);
            assert!(judge(&json.to_string()).is_err(), "breakage {number}");
        }
        assert!(judge(&format!("a log line\n{}", good())).is_err());
    }
}
