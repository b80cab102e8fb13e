//! Golden files: a vault and a cache log that an older version left behind are read by this one.
//!
//! They lie in `tests/golden/`, whose README says what they are. Every test works on a copy.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use everpoint_tests::rigs::golden::{self, Expected, ExpectedPoint};
use everpoint_tests::rigs::site::{ServerSpec, Site};
use everpoint_tests::rigs::{vault_view, wait};
use everpoint_units::{DiskId, MachineId};
use serde_json::Value;

const STEP_TIME_MAX: Duration = Duration::from_secs(60);
/// What the golden vault must have, so that reading it says something.
const KINDS: [&str; 8] = [
    "data",
    "zero",
    "discard",
    "resize",
    "bookmark",
    "resync begin",
    "resync complete",
    "disk begin",
];

/// A site with a copy of the golden vault.
async fn site_with_vault(name: &str) -> Result<(Site, Expected)> {
    let site = Site::new(name).await?;
    golden::copy(&golden::folder().join("vault"), &site.vault(), &|_| true)?;
    Ok((site, golden::expected()?))
}

fn url(site: &Site) -> String {
    format!("file://{}", site.vault().display())
}

async fn json<const N: usize>(site: &Site, words: [&str; N]) -> Result<Value> {
    let printed = site.everpoint(words, &[]).await?;
    let printed = printed.succeeded(&words.join(" "))?;
    serde_json::from_str(&printed).with_context(|| format!("{words:?} printed {printed:?}"))
}

/// Restores every disk as of a point, and compares it with what its source was.
async fn expect_images(site: &Site, point: &ExpectedPoint, at: &str) -> Result<()> {
    for (disk, expected) in &point.images {
        let id: DiskId = disk.parse()?;
        let restored = site.restore(&site.vault(), id, at, "restored.raw").await?;
        ensure!(
            restored.seq == point.seq,
            "{at} is {}, not {}",
            restored.seq,
            point.seq
        );
        let found = golden::digest(&restored.path)?;
        ensure!(found == *expected, "disk {disk} at {at}: other bytes");
        std::fs::remove_file(restored.path)?;
    }
    Ok(())
}

/// That all data in the vault is verified, and how many journals it has.
async fn expect_whole(site: &Site) -> Result<u64> {
    let url = url(site);
    let words = ["check", "--json", "--read-data", "--vault", &url];
    let report = json(site, words).await?;
    ensure!(report["damage_count"] == 0, "{report}");
    let frames = report["frame_count"].as_u64();
    ensure!(frames.is_some_and(|count| 0 < count), "{report}");
    report["journal_count"]
        .as_u64()
        .context("a check counts journals")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_point_of_the_golden_vault_is_listed_and_restored() -> Result<()> {
    let (site, expected) = site_with_vault("golden-vault").await?;
    let url = url(&site);
    let words = [
        "point",
        "list",
        "--json",
        "--vault",
        &url,
        "--machine",
        &expected.machine,
    ];
    let list = json(&site, words).await?;
    ensure!(list["damage"] == Value::Array(Vec::new()), "{list}");
    for disk in &expected.disks {
        let found = list["disks"].as_array().into_iter().flatten();
        let mut found = found.filter(|found| found["disk"] == disk.id.as_str());
        let found = found.next().with_context(|| format!("no {}", disk.id))?;
        ensure!(found["name"] == disk.name.as_str() && found["state"] == "level");
        ensure!(found["size_bytes"] == disk.size_bytes && found["block_size"] == disk.block_size);
    }
    let listed = list["bookmarks"].as_array().context("a list")?;
    let listed: Vec<_> = listed
        .iter()
        .map(|mark| (&mark["name"], mark["seq"].as_u64(), &mark["restorable"]))
        .collect();
    let named = expected
        .points
        .iter()
        .filter(|point| !point.at.starts_with("seq:"));
    let names: Vec<_> = named
        .map(|point| (Value::from(point.at.as_str()), point.seq))
        .collect();
    let wanted: Vec<_> = names
        .iter()
        .map(|(name, seq)| (name, Some(*seq), &Value::Bool(true)))
        .collect();
    ensure!(listed == wanted, "{listed:?} where {wanted:?} are expected");

    for point in &expected.points {
        expect_images(&site, point, &point.at).await?;
    }
    ensure!(expect_whole(&site).await? == expected.journal_count);
    site.passed();
    Ok(())
}

/// The newest object is damaged where its index lies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_told_with_code_3_wherever_something_older_could_pass_for_what_was_asked()
-> Result<()> {
    let (site, expected) = site_with_vault("golden-damage").await?;
    let mut journals = std::fs::read_dir(site.vault().join("v1/journal"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    journals.sort();
    let newest = journals.last().context("there are journals")?;
    let object = newest.join(format!("{:020}", 1));
    let mut bytes = std::fs::read(&object)?;
    let at = bytes.len() - 200;
    bytes[at] ^= 1;
    std::fs::write(&object, bytes)?;

    let (url, disk) = (url(&site), &expected.disks[0].id);
    let restore = async |at: &str, output: &str| {
        let words = [
            "restore", "--json", "--vault", &url, "--disk", disk, "--at", at, "--output",
        ];
        site.everpoint(words, &[&site.image(output)]).await
    };
    let [.., before, behind] = &expected.points[..] else {
        anyhow::bail!("too few points");
    };
    // A point with a name is that point: it is whole, and the damage is a note.
    let named = restore(&before.at, "named.raw").await?;
    let printed: Value = serde_json::from_str(&named.succeeded("the point before")?)?;
    ensure!(
        printed["damage"]
            .as_array()
            .is_some_and(|list| !list.is_empty()),
        "{printed}"
    );
    ensure!(golden::digest(&site.image("named.raw"))? == before.images[disk]);
    // What lies behind the damage is not served.
    let behind = restore(&behind.at, "behind.raw").await?;
    ensure!(behind.status.code() == Some(3), "{behind:?}");
    ensure!(!site.image("behind.raw").exists());
    // The newest that is left is served, and does not pass for the newest.
    let latest = restore("latest", "latest.raw").await?;
    ensure!(latest.status.code() == Some(3), "{latest:?}");
    ensure!(latest.stderr.contains("history is damaged"), "{latest:?}");
    ensure!(golden::digest(&site.image("latest.raw"))? == before.images[disk]);
    site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_golden_vault_has_every_kind_of_record_that_a_guest_or_a_loss_of_order_makes()
-> Result<()> {
    let expected = golden::expected()?;
    let vault = golden::folder().join("vault");
    let kinds = vault_view::record_kinds(&vault, expected.machine.parse()?).await?;
    for kind in KINDS {
        ensure!(kinds.contains(kind), "no {kind} among {kinds:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tail_in_the_golden_cache_log_is_committed_by_a_server_of_this_version() -> Result<()> {
    let (site, expected) = site_with_vault("golden-log").await?;
    let tail = &expected.tail;
    let spec = ServerSpec {
        id: expected.server.parse()?,
        log_quota: tail.log_quota,
        log_file_len: tail.log_file_len,
        ..ServerSpec::new("server", site.vault())
    };
    let mut server = site.server(spec).await?;
    let folder = golden::folder();
    golden::copy(&folder.join("server"), &server.state_dir, &|_| true)?;
    golden::copy(&folder.join("server-log"), &server.log_dir, &|_| true)?;
    let machine: MachineId = expected.machine.parse()?;
    let before = vault_view::last_blocks(&site.vault(), machine).await?;
    for disk in &tail.disks {
        ensure!(before.get(&disk.generation) == Some(&disk.committed_block));
    }

    server.node.start().await?;
    wait::until("the tail is committed", STEP_TIME_MAX, async || {
        let blocks = vault_view::last_blocks(&site.vault(), machine).await?;
        let is_there = |generation| blocks.get(generation).copied().unwrap_or(0);
        let mut disks = tail.disks.iter();
        Ok(disks
            .all(|disk| disk.cached_block <= is_there(&disk.generation))
            .then_some(()))
    })
    .await?;
    ensure!(server.node.stop().await?.success());
    let after = vault_view::last_blocks(&site.vault(), machine).await?;
    for disk in &tail.disks {
        ensure!(
            after.get(&disk.generation) == Some(&disk.cached_block),
            "{disk:?}: {after:?}"
        );
    }

    expect_images(&site, &tail.newest, "latest").await?;
    expect_images(&site, &tail.newest, &tail.newest.at).await?;
    for point in &expected.points {
        expect_images(&site, point, &point.at).await?;
    }
    // The server's boot has sealed the journal of the one before, and has opened its own.
    ensure!(expect_whole(&site).await? == expected.journal_count + 1);
    site.passed();
    Ok(())
}
