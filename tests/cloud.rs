//! Vaults in clouds: Azure Blob storage, for which Azurite stands in, and S3, for which moto does.
//!
//! Both keep the contract that a directory keeps, also for a credential that may read, list and create and can
//! neither overwrite nor delete; a machine's whole life passes on such a one; and what is wrong with an account is
//! said in words that name the fix.

use std::time::Duration;

use anyhow::{Result, ensure};
use everpoint_tests::rigs::child::Finished;
use everpoint_tests::rigs::clouds::{Azurite, LEAST_PERMISSIONS as LEAST, LONG, Moto};
use everpoint_tests::rigs::image::ImageDigest;
use everpoint_tests::rigs::load::{Load, LoadSpec};
use everpoint_tests::rigs::site::{AgentSpec, Home, ServerSpec, Site};
use everpoint_tests::rigs::vault_place::VaultPlace;
use everpoint_vault::{ObjectName, ReadError, contract};

/// Unit: bytes.
const DISK_LEN: u64 = 64 << 20;
const LEVEL_TIME_MAX: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azurite_keeps_the_contract() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let azurite = Azurite::start(dir.path()).await?;
    azurite.container("contract").await?;
    let by_key = azurite.with_key("contract")?;
    contract::check(&by_key.open().await?).await;
    let by_sas = azurite.with_sas("contract", LEAST, LONG).await?;
    contract::check(&by_sas.open().await?).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_keeps_the_contract() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let moto = Moto::start(dir.path()).await?;
    moto.bucket("contract").await?;
    contract::check(&moto.place("contract")?.open().await?).await;
    Ok(())
}

/// In a container that is gone nothing is absent: `committed` rests on what is known to be absent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_container_is_gone_nothing_is_called_absent() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let azurite = Azurite::start(dir.path()).await?;
    azurite.container("gone").await?;
    let vault = azurite.with_key("gone")?.open().await?;
    let name = ObjectName::new("v1/journal/end")?;
    ensure!(vault.head(&name).await?.is_none(), "it was never created");
    azurite.remove("gone").await?;
    let head = vault.head(&name).await;
    ensure!(
        matches!(head, Err(ReadError::Unavailable { .. })),
        "{head:?}"
    );
    let read = vault.read(&name).await;
    ensure!(
        matches!(read, Err(ReadError::Unavailable { .. })),
        "{read:?}"
    );
    Ok(())
}

/// A machine's life with a vault that its server can add to and nothing else: writes, a bookmark, a server that is
/// killed, more writes, restores.
async fn protects(site: &Site, vault: VaultPlace) -> Result<()> {
    let source = site.empty_image("source.raw", DISK_LEN)?;
    let server = ServerSpec::new("server", &vault);
    let (mut server, mut agent) = site.protect(server, AgentSpec::new(source.clone())).await?;
    let spec = LoadSpec {
        seed: 4,
        connections: 2,
        depth: 4,
        rate_max: Some(8 << 20),
        len_min: 512,
        len_max: 256 << 10,
        zero_one_in: 12,
        discard_one_in: 12,
        hot_len: 4 << 20,
        is_mixed: false,
    };
    let mut load = Load::start(&agent.address, spec).await?;
    load.run_for(Duration::from_secs(3)).await?;
    let held = load.hold().await;
    site.create_point(&agent, "before the kill").await?;
    let before = ImageDigest::of(&source)?;
    drop(held);
    load.run_for(Duration::from_secs(2)).await?;
    server.node.kill()?;
    load.run_for(Duration::from_secs(1)).await?;
    server.node.start().await?;
    load.run_for(Duration::from_secs(2)).await?;
    load.finish().await?;
    agent.until_settled(&server, LEVEL_TIME_MAX).await?;

    let newest = site
        .restore(&vault, agent.disk, "latest", "newest.raw")
        .await?;
    ImageDigest::of(&source)?.expect_same(&ImageDigest::of(&newest.path)?, "the newest point")?;
    let bookmark = site
        .restore(&vault, agent.disk, "before the kill", "bookmark.raw")
        .await?;
    before.expect_same(&ImageDigest::of(&bookmark.path)?, "the bookmark")?;
    let checked = site
        .ask_vault(&vault, &["check", "--read-data", "--json"], &[])
        .await?;
    checked.succeeded("check --read-data")?;
    ensure!(agent.node.stop().await?.success() && server.node.stop().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_lives_on_azure_by_a_credential_that_cannot_overwrite_or_delete() -> Result<()> {
    let site = Site::on("azure", Home::Azure).await?;
    protects(&site, site.place()).await?;
    site.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_lives_on_s3() -> Result<()> {
    let site = Site::on("s3", Home::Directory).await?;
    let moto = Moto::start(&site.path("")).await?;
    moto.bucket("vault").await?;
    protects(&site, moto.place("vault")?).await?;
    site.passed();
    Ok(())
}

/// Asks for what is in a vault, which fails, and gives the exit code and what was said.
async fn refused(site: &Site, vault: &VaultPlace) -> Result<(Option<i32>, String)> {
    let Finished {
        status,
        stdout,
        stderr,
    } = site
        .ask_vault(vault, &["disk", "list", "--json"], &[])
        .await?;
    ensure!(!status.success(), "it answers: {stdout}");
    Ok((status.code(), stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_an_account_is_said_with_its_fix() -> Result<()> {
    let site = Site::on("azure-refused", Home::Directory).await?;
    let azurite = Azurite::start(&site.path("")).await?;
    azurite.container("vault").await?;

    let wrong_key = azurite.place("vault", "access_key_file", "wrong.key", "d3Jvbmc=")?;
    let ended = azurite.with_sas("vault", LEAST, Duration::ZERO).await?;
    let no_list = azurite.with_sas("vault", "c", LONG).await?;
    for (what, vault) in [
        ("a wrong key", wrong_key),
        ("an ended SAS", ended),
        ("no list", no_list),
    ] {
        let (code, said) = refused(&site, &vault).await?;
        ensure!(code == Some(4), "{what}: {code:?}, {said}");
        ensure!(
            said.contains("the object store refuses the credential")
                && said.contains("the end of its SAS, and this machine's clock"),
            "{what}: {said}"
        );
        ensure!(
            !said.contains("sig="),
            "{what}: the signature is told: {said}"
        );
    }

    let (code, said) = refused(&site, &azurite.with_key("nowhere")?).await?;
    ensure!(code == Some(2), "{code:?}, {said}");
    ensure!(
        said.contains("container or bucket does not exist: create it"),
        "{said}"
    );

    let no_key = azurite.place("vault", "access_key_file", "no.key", "no base64, this")?;
    let (code, said) = refused(&site, &no_key).await?;
    ensure!(code == Some(2), "{code:?}, {said}");
    ensure!(
        said.contains("azure.access_key_file: an account's key is base64 text"),
        "{said}"
    );
    site.passed();
    Ok(())
}

/// A server whose credential may only read does not start, and says so at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_may_not_create_is_told_at_its_start() -> Result<()> {
    let site = Site::on("azure-readonly", Home::Directory).await?;
    let azurite = Azurite::start(&site.path("")).await?;
    azurite.container("vault").await?;
    let vault = azurite.with_sas("vault", "rl", LONG).await?;
    let server = site.server(ServerSpec::new("server", &vault)).await?;
    let ended = site
        .everpoint(["server", "run", "--config"], &[&server.config])
        .await?;
    ensure!(ended.status.code() == Some(4), "{ended:?}");
    ensure!(
        ended
            .stderr
            .contains("it has to read, list and create there"),
        "{ended:?}"
    );
    site.passed();
    Ok(())
}
