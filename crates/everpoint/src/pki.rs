//! `everpoint pki`: a CA for a vault, and certificates for its agents and servers.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use everpoint_transport::Validity;
use everpoint_transport::pki::{
    CA_LIFETIME, CERTIFICATE_LIFETIME, Ca, IssueError, Issued, LoadError, Overwrite, WriteError,
};
use everpoint_units::{MachineId, ServerId, WallTime};
use serde::Serialize;

use crate::failure::{Code, Failure};
use crate::output::{self, Table};

const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";

/// What is asked of the CA.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a CA: ca.pem, which everybody needs, and ca.key, which only who issues needs.
    Init(Init),
    /// Issue a certificate and its key.
    #[command(subcommand)]
    Issue(Issue),
}

/// Where the CA is made.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Directory for ca.pem and ca.key; made where it is missing.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Replace a CA that is there: certificates that it issued are trusted no more.
    #[arg(long)]
    overwrite: bool,
}

/// Whom a certificate is for.
#[derive(Debug, Subcommand)]
pub(crate) enum Issue {
    /// For the agent of a machine: it may append to that machine's disks, nothing else.
    Agent {
        /// The machine's id. Default: a new random one.
        #[arg(long, value_name = "ID")]
        machine: Option<MachineId>,
        #[command(flatten)]
        files: Files,
    },
    /// For a process server.
    Server {
        /// The server's id. Default: a new random one.
        #[arg(long, value_name = "ID")]
        server: Option<ServerId>,
        /// DNS name or IP address by which agents reach the server; may be given several times.
        #[arg(long = "name", value_name = "NAME", required = true)]
        names: Vec<String>,
        #[command(flatten)]
        files: Files,
    },
}

/// Which files are read and written.
#[derive(Debug, Args)]
pub(crate) struct Files {
    /// Directory with ca.pem and ca.key.
    #[arg(long, value_name = "DIR", default_value = ".")]
    ca_dir: PathBuf,
    /// Directory for the certificate and its key; made where it is missing. Default: that of the CA.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Name of both files, without .pem and .key. Default: agent or server.
    #[arg(long, value_name = "NAME")]
    file: Option<PathBuf>,
    /// Replace files that are there.
    #[arg(long)]
    overwrite: bool,
}

/// What was made, to print.
#[derive(Debug, Serialize)]
struct Made {
    /// `ca`, `agent` or `server`.
    kind: &'static str,
    /// Of the machine or the server.
    id: Option<String>,
    certificate: String,
    key: String,
    expires_at: String,
}

/// Does what is asked.
///
/// # Errors
///
/// Why it was not done.
pub(crate) fn run(command: &Command, json: bool) -> Result<(), Failure> {
    let made = match command {
        Command::Init(args) => init(args)?,
        Command::Issue(Issue::Agent { machine, files }) => {
            let machine = machine.unwrap_or_else(|| MachineId(rand::random()));
            let id = machine.to_string();
            issue("agent", id, files, |ca, validity| {
                ca.issue_agent(machine, validity)
            })?
        }
        Command::Issue(Issue::Server {
            server,
            names,
            files,
        }) => {
            let server = server.unwrap_or_else(|| ServerId(rand::random()));
            let id = server.to_string();
            issue("server", id, files, |ca, validity| {
                ca.issue_server(server, names, validity)
            })?
        }
    };
    output::print(json, &made, Made::lines)
}

fn init(args: &Init) -> Result<Made, Failure> {
    let ca = Ca::create(Validity::from_now(now(), CA_LIFETIME)).map_err(|e| not_issued(&e))?;
    make_dir(&args.dir)?;
    let (certificate, key) = (args.dir.join(CA_CERTIFICATE), args.dir.join(CA_KEY));
    let written = ca.write(&certificate, &key, overwrite(args.overwrite));
    written.map_err(|error| not_written(&error))?;
    Ok(Made {
        kind: "ca",
        id: None,
        certificate: certificate.display().to_string(),
        key: key.display().to_string(),
        expires_at: ca.expires_at().to_string(),
    })
}

fn issue(
    kind: &'static str,
    id: String,
    files: &Files,
    issue: impl FnOnce(&Ca, Validity) -> Result<Issued, IssueError>,
) -> Result<Made, Failure> {
    let (ca, ca_key) = (files.ca_dir.join(CA_CERTIFICATE), files.ca_dir.join(CA_KEY));
    let ca = Ca::load(&ca, &ca_key, now()).map_err(|error| no_ca(&error))?;
    let validity = Validity::from_now(now(), CERTIFICATE_LIFETIME);
    let issued = issue(&ca, validity).map_err(|error| not_issued(&error))?;
    let dir = files.dir.as_ref().unwrap_or(&files.ca_dir);
    make_dir(dir)?;
    let stem = files.file.clone().unwrap_or_else(|| PathBuf::from(kind));
    let (certificate, key) = (
        with_suffix(dir, &stem, ".pem"),
        with_suffix(dir, &stem, ".key"),
    );
    let written = issued.write(&certificate, &key, overwrite(files.overwrite));
    written.map_err(|error| not_written(&error))?;
    Ok(Made {
        kind,
        id: Some(id),
        certificate: certificate.display().to_string(),
        key: key.display().to_string(),
        expires_at: issued.expires_at.to_string(),
    })
}

/// A suffix behind a name that may have dots of its own.
fn with_suffix(dir: &Path, stem: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.join(stem).into_os_string();
    name.push(suffix);
    name.into()
}

/// A directory for keys: nobody else's to read.
fn make_dir(dir: &Path) -> Result<(), Failure> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.map_err(|error| {
        Failure::of(Code::Usage, &error).while_doing(format!("--dir {}", dir.display()))
    })
}

const fn overwrite(yes: bool) -> Overwrite {
    if yes {
        Overwrite::Replace
    } else {
        Overwrite::Refuse
    }
}

fn not_issued(error: &IssueError) -> Failure {
    match error {
        IssueError::NoName | IssueError::Name { .. } => {
            Failure::of(Code::Usage, error).while_doing("--name")
        }
        IssueError::OutsideCa { .. } => Failure::of(Code::Failed, error)
            .help("make a new CA with `everpoint pki init`, and issue every certificate anew"),
        IssueError::Crypto(_) => Failure::of(Code::Failed, error),
    }
}

fn no_ca(error: &LoadError) -> Failure {
    Failure::of(Code::Usage, error)
        .while_doing("--ca-dir")
        .help("`everpoint pki init` makes a CA; --ca-dir names its directory")
}

fn not_written(error: &WriteError) -> Failure {
    match error {
        WriteError::Exists { .. } => {
            Failure::of(Code::Usage, error).help("name another --dir or --file, or add --overwrite")
        }
        WriteError::NotAFile { .. } => Failure::of(Code::Usage, error).while_doing("--file"),
        WriteError::Io { .. } => Failure::of(Code::Failed, error),
    }
}

fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = since.map_or(0, |since| since.as_micros());
    WallTime(u64::try_from(micros).unwrap_or(u64::MAX))
}

impl Made {
    fn lines(&self) -> String {
        let mut table = Table::plain();
        if let Some(id) = &self.id {
            table.row([
                if self.kind == "agent" {
                    "machine"
                } else {
                    "server"
                },
                id,
            ]);
        }
        table.row(["certificate", &self.certificate]);
        table.row(["key", &self.key]);
        table.row(["expires", &self.expires_at]);
        table.render()
    }
}
