//! Other people's clients against our server, and our client against other people's servers.
//!
//! A tool that is not installed fails its test with the name of the package that brings it.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "numbers of a test are small, or meant to wrap; a test fails by panicking"
)]

#[path = "support/file_export.rs"]
mod file_export;

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use everpoint_nbd::{
    BlockSizes, ClientConfig, ConnectError, ExportInfo, MemoryExport, NbdAddress, NbdClient,
    RequestError, Server, ServerConfig, ZeroFlags, ZeroSupport,
};
use everpoint_units::{ByteLen, ByteOffset};
use file_export::FileExport;
use tempfile::TempDir;
use tokio::process::{Child, Command};

const SIZE: u64 = 64 << 20;
const LIBNBD: &str = "libnbd-bin";
const QEMU: &str = "qemu-utils";

/// A server with a file under `disk` and an export in memory with 4 KiB blocks under `pages`.
struct Served {
    server: Server,
    directory: TempDir,
    pages: Arc<MemoryExport>,
}

impl Served {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::new(ServerConfig::default()).unwrap();
        server
            .listen_unix(&directory.path().join("nbd.sock"))
            .unwrap();
        let file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(directory.path().join("disk.raw"))
            .unwrap();
        file.set_len(SIZE).unwrap();
        server
            .attach("disk", Arc::new(FileExport::new(file)))
            .unwrap();
        let pages = Arc::new(MemoryExport::with_info(ExportInfo {
            blocks: BlockSizes::PAGES,
            zeroes: ZeroSupport::Fast,
            ..ExportInfo::disk(ByteLen(SIZE))
        }));
        server.attach("pages", Arc::clone(&pages)).unwrap();
        Self {
            server,
            directory,
            pages,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn uri(&self, export: &str) -> String {
        NbdAddress::unix(self.path("nbd.sock"), export).to_string()
    }

    fn contents(&self, export: &str) -> Vec<u8> {
        match export {
            "disk" => std::fs::read(self.path("disk.raw")).unwrap(),
            _ => self.pages.contents(),
        }
    }

    /// A file with data, zeroes and holes of many lengths, each byte told from its neighbours'.
    fn image(&self) -> PathBuf {
        let path = self.path("image.raw");
        let file = File::create(&path).unwrap();
        file.set_len(SIZE).unwrap();
        let mut at = 0_u64;
        for n in 0_u64.. {
            let len = 4_096 * (1 + n * n % 97);
            if at + len > SIZE {
                break;
            }
            if n % 3 == 0 {
                let data: Vec<u8> = (0..len).map(|i| ((i / 512) ^ n) as u8 | 1).collect();
                file.write_all_at(&data, at).unwrap();
            } else if n % 3 == 1 {
                file.write_all_at(&vec![0; len as usize], at).unwrap();
            }
            at += len;
        }
        path
    }
}

/// A mount point. What is mounted there goes with it, also when a test fails.
struct Mount(PathBuf);

impl Mount {
    fn unmount(&self) {
        let mut unmount = tool("fusermount3", "fuse3");
        let unmount = unmount.as_std_mut().arg("-u").arg(&self.0).status();
        assert!(unmount.unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let mut unmount = std::process::Command::new("fusermount3");
        // Nothing is mounted any more if all went well.
        let _ = unmount.args(["-u", "-z", "-q"]).arg(&self.0).status();
    }
}

/// A tool of `package`; the test fails if it is missing.
fn tool(name: &str, package: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
    assert!(found, "{name} is missing: apt-get install {package}");
    let mut command = Command::new(name);
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

/// Runs to the end and expects success; its standard output.
async fn run<A: AsRef<OsStr>>(mut command: Command, arguments: &[A]) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.args(arguments).output().await.unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr),
    );
    assert!(status.success(), "{command:?}: {status}\n{out}\n{err}");
    out.into_owned()
}

/// Starts a server of another kind and waits until its socket is there.
async fn start(mut command: Command, socket: &Path) -> Child {
    let mut child = command.spawn().unwrap();
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        assert_eq!(child.try_wait().unwrap(), None, "{command:?} ended");
        tokio::task::yield_now().await;
    }
    child
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nbdinfo_sees_what_we_announce() {
    let served = Served::new();
    let info = run(tool("nbdinfo", LIBNBD), &[served.uri("disk")]).await;
    for line in [
        "export-size: 67108864",
        "using structured packets",
        "base:allocation",
        "can_df: true",
        "can_fast_zero: true",
        "can_flush: true",
        "can_fua: true",
        "can_multi_conn: true",
        "can_trim: true",
        "can_zero: true",
        "is_read_only: false",
        "block_size_minimum: 512",
        "block_size_preferred: 4096",
        "block_size_maximum: 33554432",
    ] {
        assert!(info.contains(line), "{line} is not in\n{info}");
    }
    let list = run(tool("nbdinfo", LIBNBD), &["--list", &served.uri("")]).await;
    assert!(list.contains("export=\"disk\"") && list.contains("export=\"pages\""));
    let pages = run(tool("nbdinfo", LIBNBD), &[served.uri("pages")]).await;
    assert!(pages.contains("block_size_minimum: 4096"), "{pages}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nbdcopy_copies_an_image_in_and_out() {
    let served = Served::new();
    let image = served.image();
    let image = image.to_str().unwrap();
    for export in ["disk", "pages"] {
        let uri = served.uri(export);
        run(tool("nbdcopy", LIBNBD), &["--flush", image, &uri]).await;
        assert!(served.contents(export) == std::fs::read(image).unwrap());
        let back = served.path("back.raw");
        run(tool("nbdcopy", LIBNBD), &[&uri, back.to_str().unwrap()]).await;
        assert!(std::fs::read(back).unwrap() == std::fs::read(image).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qemu_img_converts_compares_and_maps() {
    let served = Served::new();
    let image = served.image();
    let image = image.to_str().unwrap();
    for export in ["disk", "pages"] {
        let uri = served.uri(export);
        let convert = ["convert", "-n", "-f", "raw", "-O", "raw", image, &uri];
        run(tool("qemu-img", QEMU), &convert).await;
        let compare = ["compare", "-f", "raw", "-F", "raw", image, &uri];
        let out = run(tool("qemu-img", QEMU), &compare).await;
        assert!(out.contains("identical"), "{out}");
        assert!(served.contents(export) == std::fs::read(image).unwrap());
        let map = ["map", "-f", "raw", "--output", "json", &uri];
        let out = run(tool("qemu-img", QEMU), &map).await;
        assert!(out.contains("\"zero\": true") && out.contains("\"data\": true"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qemu_io_does_every_command() {
    let served = Served::new();
    for export in ["disk", "pages"] {
        let uri = served.uri(export);
        let mut arguments = vec!["-f", "raw"];
        for command in [
            "write -P 5 0 1M",
            "write -f -P 6 4k 8k",
            // Below the minimum block: qemu reads, changes and writes back.
            "write -P 7 100 1000",
            "discard 64k 64k",
            "write -z 128k 64k",
            "write -z -u 256k 64k",
            "read -P 7 100 1000",
            "read -P 6 8k 4k",
            "read -P 0 64k 128k",
            "read -P 5 192k 64k",
            "read -P 0 256k 64k",
            "aio_write -P 8 1M 4M",
            "aio_flush",
            "flush",
            "read -P 8 1M 4M",
        ] {
            arguments.extend(["-c", command]);
        }
        arguments.push(&uri);
        let out = run(tool("qemu-io", QEMU), &arguments).await;
        assert!(!out.contains("failed"), "{out}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fio_verifies_what_it_wrote() {
    let served = Served::new();
    let uri = format!("--uri={}", served.uri("disk"));
    let arguments = [
        "--name=verify",
        "--ioengine=nbd",
        &uri,
        "--rw=randwrite",
        "--bsrange=512-256k",
        "--bs_unaligned=0",
        "--iodepth=16",
        "--size=32M",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--randseed=7",
    ];
    let mut fio = tool("fio", "fio");
    // It leaves its verify state where it runs.
    fio.current_dir(served.directory.path());
    let out = run(fio, &arguments).await;
    assert!(out.contains("err= 0"), "{out}");
}

/// A page of memory.
#[repr(align(4096))]
struct Page([u8; 4_096]);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nbdfuse_shows_an_export_as_a_file() {
    let served = Served::new();
    let mount = Mount(served.path("mount"));
    std::fs::create_dir(&mount.0).unwrap();
    let mut fuse = tool("nbdfuse", LIBNBD);
    let uri = served.uri("disk");
    let mut fuse = fuse.arg(&mount.0).arg(uri).spawn().unwrap();
    let file = mount.0.join("nbd");
    while !file.exists() {
        assert_eq!(fuse.try_wait().unwrap(), None, "nbdfuse ended");
        tokio::task::yield_now().await;
    }
    let written = tokio::task::spawn_blocking(move || {
        let file = File::options().read(true).write(true).open(&file).unwrap();
        assert_eq!(file.metadata().unwrap().len(), SIZE);
        // One page at a time, from and into one page that is at hand: the kernel cuts requests where the memory's pages
        // end, or where one has to be fetched first, and nbdfuse passes such pieces on as they are.
        let at = |page: u64| 4_096 * (1 + page);
        let mut own = Box::new(Page([9; 4_096]));
        for page in 0..24 {
            file.write_all_at(&own.0, at(page)).unwrap();
        }
        file.sync_all().unwrap();
        (0..24).all(|page| {
            own.0.fill(0);
            file.read_exact_at(&mut own.0, at(page)).unwrap();
            own.0 == [9; 4_096]
        })
    });
    assert!(written.await.unwrap());
    mount.unmount();
    assert!(fuse.wait().await.unwrap().success());
    assert_eq!(served.contents("disk")[4_096..102_400], [9; 98_304]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_let_go_by_a_detach_and_finds_a_read_only_export_read_only() {
    let served = Served::new();
    let info = ExportInfo {
        read_only: true,
        ..ExportInfo::disk(ByteLen(SIZE))
    };
    served
        .server
        .attach("ro", Arc::new(MemoryExport::with_info(info)))
        .unwrap();
    let info = run(tool("nbdinfo", LIBNBD), &[served.uri("ro")]).await;
    assert!(info.contains("is_read_only: true"));
    assert!(served.server.detach("ro").await);
    let mut gone = tool("nbdinfo", LIBNBD);
    let gone = gone.arg(served.uri("ro")).output().await.unwrap();
    assert!(!gone.status.success());
}

/// What a client of ours asks of any server that has an empty disk of [`SIZE`].
async fn used_by_our_client(client: &NbdClient) {
    assert_eq!(client.info().size, ByteLen(SIZE));
    let data: Bytes = (0..1_u32 << 20).map(|i| (i / 512) as u8 | 1).collect();
    client
        .write(ByteOffset(8 << 20), data.clone(), true)
        .await
        .unwrap();
    client.flush().await.unwrap();
    let read = client
        .read(ByteOffset((8 << 20) - 512), (1 << 20) + 512)
        .await
        .unwrap();
    assert_eq!(read[..512], [0; 512]);
    assert_eq!(read[512..], data);
    let how = ZeroFlags::default();
    client
        .write_zeroes(ByteOffset(8 << 20), 64 << 10, how)
        .await
        .unwrap();
    client
        .trim(ByteOffset(16 << 20), 64 << 10, false)
        .await
        .unwrap();
    let read = client.read(ByteOffset(8 << 20), 128 << 10).await.unwrap();
    assert_eq!(read[..64 << 10], [0; 64 << 10]);
    assert_eq!(read[64 << 10..], data[64 << 10..128 << 10]);
    let mut requests = Vec::new();
    for n in 0..64 {
        requests.push(client.read(ByteOffset((8 << 20) + (64 << 10) + n * 512), 512));
    }
    for (n, read) in futures::future::join_all(requests)
        .await
        .into_iter()
        .enumerate()
    {
        assert_eq!(read.unwrap(), data[(64 << 10) + n * 512..][..512]);
    }
}

async fn connect(address: &NbdAddress) -> NbdClient {
    let client = NbdClient::connect(address, &ClientConfig::default()).await;
    client.unwrap_or_else(|error| panic!("{address}: {error}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_uses_qemu_nbd() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, file) = (
        directory.path().join("s"),
        directory.path().join("disk.raw"),
    );
    File::create(&file).unwrap().set_len(SIZE).unwrap();
    let mut command = tool("qemu-nbd", QEMU);
    command.args([
        "-t",
        "-f",
        "raw",
        "--discard=unmap",
        "-x",
        "a b",
        "-D",
        "text",
        "-k",
    ]);
    let _server = start_with(command, &socket, &[&file]).await;
    let client = connect(&NbdAddress::unix(&socket, "a b")).await;
    assert!(client.is_structured() && client.has_block_status());
    assert_eq!(client.info().description, "text");
    used_by_our_client(&client).await;
    let extents = client.block_status(ByteOffset(0), 16 << 20).await.unwrap();
    assert!(extents[0].hole && extents[0].zero && extents[0].len >= 4 << 20);
    client.disconnect().await;
    let wrong = NbdAddress::unix(&socket, "other");
    let refused = NbdClient::connect(&wrong, &ClientConfig::default()).await;
    assert!(matches!(refused.err(), Some(ConnectError::UnknownExport)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_uses_nbdkit_with_and_without_structured_replies() {
    let directory = tempfile::tempdir().unwrap();
    for (n, options) in [&[][..], &["--no-sr"]].into_iter().enumerate() {
        let socket = directory.path().join(n.to_string());
        let mut command = tool("nbdkit", "nbdkit");
        command.args(["-f"]).args(options).arg("-U");
        let _server = start_with(command, &socket, &["memory", "64M"]).await;
        let client = connect(&NbdAddress::unix(&socket, "")).await;
        assert_eq!(client.is_structured(), options.is_empty());
        used_by_our_client(&client).await;
        client.disconnect().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_in_the_middle_fails_our_request_and_not_our_client() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let mut command = tool("nbdkit", "nbdkit");
    command.args(["-f", "--filter=error", "-U"]);
    let arguments = ["memory", "64M", "error-pread=EIO", "error-pread-rate=100%"];
    let _server = start_with(command, &socket, &arguments).await;
    let client = connect(&NbdAddress::unix(&socket, "")).await;
    let error = client.read(ByteOffset(0), 4_096).await.unwrap_err();
    assert!(matches!(error, RequestError::Server(_)), "{error}");
    client.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_before_the_fixed_handshake_is_named_as_such() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let mut command = tool("nbdkit", "nbdkit");
    command.args(["-f", "--oldstyle", "-U"]);
    let _server = start_with(command, &socket, &["memory", "64M"]).await;
    let address = NbdAddress::unix(&socket, "");
    let refused = NbdClient::connect(&address, &ClientConfig::default()).await;
    assert!(matches!(refused.err(), Some(ConnectError::Greeting(_))));
}

/// Adds the socket and `arguments` to a server's command line, and starts it.
async fn start_with<A: AsRef<OsStr>>(mut command: Command, socket: &Path, rest: &[A]) -> Child {
    command.arg(socket).args(rest);
    start(command, socket).await
}
