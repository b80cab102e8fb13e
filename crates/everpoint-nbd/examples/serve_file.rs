//! Serves a plain file on a unix socket until killed: what the server alone costs, to be compared
//! with other servers on the same file.
//!
//! `cargo run --release -p everpoint-nbd --example serve_file -- SOCKET FILE`

#[path = "../tests/support/file_export.rs"]
mod file_export;

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use everpoint_nbd::{Server, ServerConfig};
use file_export::FileExport;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [socket, file] = arguments.as_slice() else {
        return Err("usage: serve_file SOCKET FILE".into());
    };
    let file = File::options().read(true).write(true).open(file)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let server = Server::new(ServerConfig::default())?;
        server.attach("", Arc::new(FileExport::new(file)))?;
        server.listen_unix(Path::new(socket))?;
        std::future::pending().await
    })
}
