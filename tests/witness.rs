//! A second reader, in another language and by what `proto/` says, restores what the product restores, byte for byte.
//!
//! It lies in `tests/witness/` and is the witness that the written formats are enough to get at one's data.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use everpoint_tests::rigs::child::{Finished, Process, finish};
use everpoint_tests::rigs::clouds;
use everpoint_tests::rigs::golden;
use everpoint_tests::rigs::load::{Load, LoadSpec};
use everpoint_tests::rigs::site::{Agent, AgentSpec, Home, Server, ServerSpec, Site};
use everpoint_tests::rigs::wait;
use everpoint_units::DiskId;
use everpoint_vault::history::{
    PathReader, list_machines, list_manifests, newest_manifest, read_header,
};
use everpoint_vault::{OpenOptions, Vault, VaultConfig};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::process::Signal;
use serde_json::Value;

/// Not whole MiB, and not whole pieces. Unit: bytes.
const DISK_LEN: u64 = (32 << 20) + 1_536;
/// What the disk grows by while its agent is away. Unit: bytes.
const GROWTH: u64 = 1 << 20;
const STEP_TIME_MAX: Duration = Duration::from_secs(60);
/// Points that are restored by both.
const POINTS: usize = 10;
/// What the witness exits with where bytes are not what was written.
const DAMAGE: i32 = 3;

/// Runs the witness on a vault.
async fn witness(vault: &Path, words: &[&str], output: Option<&Path>) -> Result<Finished> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("witness/restore.py");
    let mut python = Command::new(clouds::python()?);
    // Nothing is left beside the script.
    python.arg("-B").arg(script).arg(vault).args(words);
    if let Some(output) = output {
        python.arg("--output").arg(output);
    }
    finish(python, STEP_TIME_MAX).await
}

async fn listed(vault: &Path) -> Result<Value> {
    let printed = witness(vault, &["--list"], None).await?;
    let printed = printed.succeeded("the witness lists")?;
    serde_json::from_str(&printed).with_context(|| printed)
}

/// What `point list` says of a machine.
async fn points(site: &Site, agent: &Agent) -> Result<Value> {
    let machine = agent.machine.to_string();
    let words = ["point", "list", "--json", "--machine", &machine];
    let printed = site.ask_vault(&site.place(), &words, &[]).await?;
    Ok(serde_json::from_str(&printed.succeeded("point list")?)?)
}

/// Runs of `Seq` that can be restored, first and last, as a list of either says.
fn windows(list: &Value) -> Result<Vec<(u64, u64)>> {
    let seq = |edge: &Value| {
        let seq = edge.as_u64().or_else(|| edge["seq"].as_u64());
        seq.with_context(|| format!("a position: {edge}"))
    };
    let list = list["windows"].as_array().context("a list of windows")?;
    let both = list
        .iter()
        .map(|run| Ok((seq(&run["from"])?, seq(&run["through"])?)));
    both.collect()
}

fn bookmarks(list: &Value) -> Result<Vec<(&Value, &Value, &Value)>> {
    let list = list["bookmarks"].as_array().context("a list")?;
    let fields = list
        .iter()
        .map(|mark| (&mark["name"], &mark["seq"], &mark["restorable"]));
    Ok(fields.collect())
}

/// A load that does everything that a guest does, for a while; what it did is in the vault when this returns.
async fn write(agent: &Agent, server: &Server, seed: u64) -> Result<()> {
    let spec = LoadSpec {
        seed,
        connections: 2,
        depth: 4,
        rate_max: Some(8 << 20),
        len_min: 512,
        len_max: 2 << 20,
        zero_one_in: 12,
        discard_one_in: 12,
        hot_len: 4 << 20,
        is_mixed: false,
    };
    let mut load = Load::start(&agent.address, spec).await?;
    load.run_for(Duration::from_millis(700)).await?;
    load.finish().await?;
    agent.until_settled(server, STEP_TIME_MAX).await?;
    Ok(())
}

/// Retention beside the server, by a file of its own.
fn retention(site: &Site) -> Result<Process> {
    let config = site.path("retention.toml");
    let text = format!(
        "roles = [\"retention\"]\n[retention]\nvault = \"{}\"\ninterval_s = 1\n",
        site.place().url
    );
    fs::write(&config, text)?;
    let mut command = Command::new(xtask::built::program("everpoint"));
    command
        .args(["server", "run", "--json", "--config"])
        .arg(config);
    Process::start("retention", command, &site.log("retention"))
}

/// Retention's manifests, and whether the newest has everything that was committed.
async fn folded(site: &Site) -> Result<(usize, bool)> {
    let (url, config) = (site.place().url.parse()?, VaultConfig::default());
    let vault = Vault::open(&url, &config, OpenOptions::READ).await?;
    let id = read_header(&vault).await?.vault;
    let machines = list_machines(&vault).await?;
    let machine = *machines.first().context("a machine")?;
    let Some(newest) = newest_manifest(&vault, id, machine).await? else {
        return Ok((0, false));
    };
    let position = newest.manifest.position;
    let mut path = PathReader::new(&vault, id, machine, Some(&position)).await?;
    let is_all = path.next().await?.is_none();
    Ok((list_manifests(&vault, machine).await?.len(), is_all))
}

/// A disk that was written to through two kills of its server and one of its agent: three journals, and a resync that
/// brings other bytes and another size. Where retention is there, it is killed, too.
async fn lived(site: &Site, has_retention: bool) -> Result<Agent> {
    let source = site.empty_image("source.raw", DISK_LEN)?;
    let spec = ServerSpec::new("server", site.place());
    let (mut server, mut agent) = site.protect(spec, AgentSpec::new(source)).await?;
    let mut folding = has_retention.then(|| retention(site)).transpose()?;
    write(&agent, &server, 1).await?;
    site.create_point(&agent, "before the kills").await?;
    server.node.kill()?;
    if let Some(folding) = &mut folding {
        folding.kill()?;
        *folding = retention(site)?;
    }
    server.node.start().await?;
    write(&agent, &server, 2).await?;
    site.create_point(&agent, "between the kills").await?;
    agent.node.kill()?;
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&agent.spec.source)?;
    file.set_len(DISK_LEN + GROWTH)?;
    agent.node.start().await?;
    agent.until_state("protected", STEP_TIME_MAX).await?;
    server.node.kill()?;
    server.node.start().await?;
    write(&agent, &server, 3).await?;
    site.create_point(&agent, "behind the kills").await?;
    if let Some(mut folding) = folding {
        wait::until("everything is folded", STEP_TIME_MAX, async || {
            let (count, is_all) = folded(site).await?;
            Ok((2 < count && is_all).then_some(()))
        })
        .await?;
        folding.signal(Signal::TERM)?;
        let ended = folding.ended(STEP_TIME_MAX).await?;
        ensure!(ended.success(), "retention ended: {ended}");
    }
    write(&agent, &server, 4).await?;
    ensure!(agent.node.stop().await?.success() && server.node.stop().await?.success());
    Ok(agent)
}

/// Restores a point with both, and compares; `None` where both say that it lies inside a request.
async fn compare(site: &Site, disk: DiskId, at: &str) -> Result<Option<u64>> {
    let (ours, theirs) = (site.image("product.raw"), site.image("witness.raw"));
    let vault = site.vault();
    let id = disk.to_string();
    let restored = site.restore(&vault, disk, at, "product.raw").await;
    let told = witness(&vault, &["--disk", &id, "--at", at], Some(&theirs)).await?;
    let expected = match restored {
        Err(error) if format!("{error:#}").contains("inside a request") => {
            ensure!(told.stderr.contains("inside a request"), "{at}: {told:?}");
            return Ok(None);
        }
        restored => restored?,
    };
    let told: Value = serde_json::from_str(&told.succeeded(&format!("the witness, {at}"))?)?;
    ensure!(
        told["seq"] == expected.seq,
        "{at} is {}, and {told}",
        expected.seq
    );
    let len = fs::metadata(&ours)?.len();
    ensure!(
        golden::digest(&ours)? == golden::digest(&theirs)?,
        "{at}, {told}: other bytes"
    );
    fs::remove_file(ours)?;
    fs::remove_file(theirs)?;
    Ok(Some(len))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_points_of_a_disk_are_the_same_bytes_by_the_product_and_by_the_witness() -> Result<()> {
    let site = Site::on("witness", Home::Directory).await?;
    let agent = lived(&site, false).await?;
    ensure!(folded(&site).await?.0 == 0, "nobody folds here");
    ten_points(site, &agent).await
}

/// The witness reads journals alone, so what it says is not from layers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_product_reads_from_map_layers_is_what_the_witness_reads_from_journals()
-> Result<()> {
    let site = Site::on("witness-layers", Home::Directory).await?;
    let agent = lived(&site, true).await?;
    let words = ["check", "--json", "--read-data"];
    let checked = site.ask_vault(&site.place(), &words, &[]).await?;
    let checked = checked.succeeded("check")?;
    let checked: Value = serde_json::from_str(&checked)?;
    let layers = checked["layer_count"].as_u64().unwrap_or_default();
    ensure!(2 < layers && checked["damage_count"] == 0, "{checked}");
    ten_points(site, &agent).await
}

async fn ten_points(site: Site, agent: &Agent) -> Result<()> {
    let list = listed(&site.vault()).await?;
    let (ours, theirs) = (points(&site, agent).await?, &list["machines"][0]);
    ensure!(theirs["damage"] == Value::Null, "{theirs}");
    let windows = (windows(&ours)?, windows(theirs)?);
    ensure!(windows.0 == windows.1, "other windows: {windows:?}");
    ensure!(2 <= windows.0.len(), "a resync lies between windows");
    let marks = (bookmarks(&ours)?, bookmarks(theirs)?);
    ensure!(marks.0 == marks.1, "other bookmarks: {marks:?}");
    let journals = fs::read_dir(site.vault().join("v1/journal"))?.count();
    ensure!(3 <= journals, "{journals} journals");

    let mut lens = vec![compare(&site, agent.disk, "latest").await?];
    for (name, _, restorable) in &marks.0 {
        ensure!(
            **restorable == Value::Bool(true),
            "{name} cannot be restored"
        );
        let name = name.as_str().context("a name")?;
        lens.push(compare(&site, agent.disk, name).await?);
    }
    ensure!(lens.iter().all(Option::is_some), "{lens:?}");
    let mut random = StdRng::seed_from_u64(3);
    let mut drawn = windows.0.iter().cycle();
    while lens.len() < POINTS {
        let (from, through) = *drawn.next().context("there are windows")?;
        let at = format!("seq:{}", random.random_range(from..=through));
        let len = compare(&site, agent.disk, &at).await?;
        lens.extend(len.map(Some));
    }
    let lens: BTreeSet<_> = lens.into_iter().flatten().collect();
    let wanted = BTreeSet::from([DISK_LEN, DISK_LEN + GROWTH]);
    ensure!(lens == wanted, "sizes {lens:?}");
    site.passed();
    Ok(())
}

#[tokio::test]
async fn every_point_of_the_golden_vault_is_restored_by_the_witness() -> Result<()> {
    let expected = golden::expected()?;
    let vault = golden::folder().join("vault");
    let dir = tempfile::tempdir()?;
    let output = dir.path().join("image");
    for point in &expected.points {
        for (disk, digest) in &point.images {
            let words = ["--disk", disk, "--at", &point.at];
            let told = witness(&vault, &words, Some(&output)).await?;
            let told: Value = serde_json::from_str(&told.succeeded("the witness restores")?)?;
            ensure!(told["seq"] == point.seq, "{}: {told}", point.at);
            let found = golden::digest(&output)?;
            ensure!(found == *digest, "disk {disk} at {}: other bytes", point.at);
            fs::remove_file(&output)?;
        }
    }
    Ok(())
}

/// Where a bit is flipped: bytes from the object's beginning, or from its end; and the word that names what was found.
const FLIPS: [(&str, isize, &str); 6] = [
    ("header", 70, "CRC"),
    ("frame", 128 + 700, "frame at"),
    ("index", -112 - 20, "checksum"),
    ("footer", -50, "CRC"),
    ("vault header", 40, "vault header"),
    ("origin", 50, "origin"),
];

#[tokio::test]
async fn a_flipped_bit_is_refused_by_the_witness_and_nothing_is_left_behind() -> Result<()> {
    let expected = golden::expected()?;
    let dir = tempfile::tempdir()?;
    let vault = dir.path().join("vault");
    golden::copy(&golden::folder().join("vault"), &vault, &|_| true)?;
    let mut journals = fs::read_dir(vault.join("v1/journal"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    journals.sort();
    let output = dir.path().join("image");
    let words = ["--disk", &expected.disks[0].id, "--at", "latest"];
    for (part, place, named) in FLIPS {
        let object = match part {
            "vault header" => vault.join("v1/vault"),
            "origin" => vault.join(format!("v1/machine/{}/origin", expected.machine)),
            _ => journals[0].join(format!("{:020}", 3)),
        };
        let sound = fs::read(&object)?;
        let mut bytes = sound.clone();
        let len = isize::try_from(sound.len())?;
        bytes[usize::try_from(place.rem_euclid(len))?] ^= 4;
        fs::write(&object, bytes)?;
        let told = witness(&vault, &words, Some(&output)).await?;
        ensure!(told.status.code() == Some(DAMAGE), "{part}: {told:?}");
        ensure!(told.stderr.contains(named), "{part}: {}", told.stderr);
        fs::write(&object, sound)?;
    }
    let left: Vec<_> = fs::read_dir(dir.path())?.collect::<Result<_, _>>()?;
    ensure!(left.len() == 1, "more than the vault is there: {left:?}");
    witness(&vault, &words, Some(&output))
        .await?
        .succeeded("the vault as it was")?;
    Ok(())
}
