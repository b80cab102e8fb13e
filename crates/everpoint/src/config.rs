//! Configuration files: read with suspicion, and every mistake named by file and key.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use everpoint_agent::AgentConfig;
use everpoint_process_server::ProcessServerConfig;
use everpoint_retention::RetentionConfig;
use everpoint_vault::VaultConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::failure::{Code, Failure};

/// Longest configuration file that is read. Unit: bytes.
const FILE_LEN_MAX: u64 = 1 << 20;

/// A server's file: which roles it has, and a section for each.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerFile {
    roles: Vec<Role>,
    process: Option<ProcessServerConfig>,
    retention: Option<RetentionConfig>,
}

/// What a server is to do: at least one of them.
#[derive(Debug)]
pub(crate) struct Roles {
    pub(crate) process: Option<ProcessServerConfig>,
    pub(crate) retention: Option<RetentionConfig>,
}

/// What a server does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Role {
    Process,
    Retention,
}

/// An agent's file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentFile {
    agent: AgentConfig,
}

/// The settings of each role that a server has.
///
/// # Errors
///
/// Bad input, named by file and key.
pub(crate) fn server(path: &Path) -> Result<Roles, Failure> {
    let file: ServerFile = read(path)?;
    let bad = |text: &str| Failure::usage(format!("{}: {text}", path.display()));
    if file.roles.is_empty() {
        let help = "write roles = [\"process\"], [\"retention\"] or both";
        return Err(bad("roles: is empty").help(help));
    }
    let missing = |role: &str| {
        let text = format!("roles: names \"{role}\", and there is no section [{role}]");
        bad(&text).help("add the section, as deploy/server.toml shows it")
    };
    let mut roles = Roles {
        process: None,
        retention: None,
    };
    if file.roles.contains(&Role::Process) {
        let config = file.process.ok_or_else(|| missing("process"))?;
        let checked = config.check();
        checked.map_err(|error| bad(&format!("process.{}: {}", error.key, error.rule)))?;
        roles.process = Some(config);
    }
    if file.roles.contains(&Role::Retention) {
        let config = file.retention.ok_or_else(|| missing("retention"))?;
        config.check().map_err(|error| bad(&error.to_string()))?;
        roles.retention = Some(config);
    }
    Ok(roles)
}

/// The settings of an agent.
///
/// # Errors
///
/// Bad input, named by file and key.
pub(crate) fn agent(path: &Path) -> Result<AgentConfig, Failure> {
    let file: AgentFile = read(path)?;
    match file.agent.check() {
        Ok(()) => Ok(file.agent),
        Err(error) => {
            let text = format!("{}: agent.{}: {}", path.display(), error.key, error.rule);
            Err(Failure::usage(text))
        }
    }
}

/// How the store of a vault is reached.
///
/// # Errors
///
/// Bad input, named by file and key.
pub(crate) fn store(path: &Path) -> Result<VaultConfig, Failure> {
    read_as("--store-config", path)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    read_as("--config", path)
}

fn read_as<T: DeserializeOwned>(flag: &str, path: &Path) -> Result<T, Failure> {
    let text = read_text(path).map_err(|failure| failure.while_doing(flag))?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(&text, span.start));
        let text = format!("{}, line {line}: {}", path.display(), error.message());
        Failure::usage(text)
    })
}

fn read_text(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let failed = |error: io::Error| Failure::of(Code::Usage, &error).while_doing(&shown);
    // Looked at before it is opened: opening a pipe would wait for its writer.
    let found = fs::metadata(path).map_err(failed)?;
    if !found.is_file() {
        let what = if found.is_dir() {
            "a directory"
        } else {
            "no regular file"
        };
        return Err(Failure::usage(format!("{shown} is {what}")).help("name a TOML file"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_LEN_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if FILE_LEN_MAX < bytes.len() as u64 {
        return Err(Failure::usage(format!("{shown} is longer than 1 MiB")));
    }
    String::from_utf8(bytes).map_err(|_| Failure::usage(format!("{shown} is not UTF-8 text")))
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1
}

/// How a command finds the control socket of what runs.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Where {
    /// Configuration file of the one that runs; its `control_socket` is asked.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The control socket itself.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

impl Where {
    /// The control socket of a process server.
    ///
    /// # Errors
    ///
    /// See [`server`].
    pub(crate) fn server(&self) -> Result<PathBuf, Failure> {
        self.socket(|path| {
            let process = server(path)?.process.ok_or_else(|| {
                let text = format!("{}: no process server runs with this file", path.display());
                Failure::usage(text).help("name the file of one whose roles have \"process\"")
            })?;
            Ok(process.control_socket)
        })
    }

    /// The control socket of an agent.
    ///
    /// # Errors
    ///
    /// See [`agent`].
    pub(crate) fn agent(&self) -> Result<PathBuf, Failure> {
        self.socket(|path| Ok(agent(path)?.control_socket))
    }

    fn socket(
        &self,
        from_file: impl Fn(&Path) -> Result<PathBuf, Failure>,
    ) -> Result<PathBuf, Failure> {
        match (&self.control, &self.config) {
            (Some(control), _) => Ok(control.clone()),
            (None, Some(config)) => from_file(config),
            (None, None) => Err(Failure::usage("neither --config nor --control is given")),
        }
    }
}
