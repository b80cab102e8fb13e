//! The stages of the path of a write, each alone and with nothing of everpoint round it, on the data
//! of one image: what the whole cannot be faster than.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use everpoint_format::digest::{DigestKey, piece_digests};
use everpoint_units::{Extent, Lba};
use rustix::time::{ClockId, clock_gettime};

use crate::direct::{AlignedBuffer, zeroed};
use crate::quic::{FRAME_LEN, Setup, bare};

/// A guest's zeroes are not copied as bytes: the clients find them at this grain. Unit: bytes.
const ZERO_GRAIN: usize = 4_096;
/// How much the log writes between two syncs, and the vault. Unit: bytes.
const LOG_STEP: usize = 4 << 20;
const OBJECT_STEP: usize = 16 << 20;
const MTU: u16 = 1_452;

/// What an image comes to when each stage handles it alone.
pub struct Stages {
    /// Bytes that are not zero.
    pub data_len: u64,
    /// The same, compressed.
    pub frame_len: u64,
    /// Processor time of the agent's stages, and of the server's, by name.
    pub agent: Vec<(&'static str, Duration)>,
    pub server: Vec<(&'static str, Duration)>,
}

/// Runs every stage but the guest's own (the copy into an NBD server) once.
///
/// # Errors
///
/// When a file fails.
///
/// # Panics
///
/// If an end of the link fails.
pub fn measure(image: &Path, directory: &Path) -> io::Result<Stages> {
    let blocks = data_blocks(image)?;
    let data_len = blocks.iter().map(|block| block.len() as u64).sum();
    let mut out = vec![0; lz4_flex::block::get_maximum_output_size(FRAME_LEN)];
    let mut frames = Vec::with_capacity(blocks.len());
    let compress = timed(|| {
        for block in &blocks {
            let len = lz4_flex::block::compress_into(block, &mut out).expect("room for all");
            frames.push(out[..len].to_vec());
        }
    });
    let frame_len = frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
    let check = timed(|| {
        for frame in &frames {
            std::hint::black_box(crc32fast::hash(frame));
        }
    });
    let decompress = timed(|| {
        for frame in &frames {
            lz4_flex::block::decompress_into(frame, &mut out).expect("whole");
        }
    });
    let key = DigestKey([7; 32]);
    let digest = timed(|| {
        for block in &blocks {
            let end = Lba::new(block.len() as u64 / 512).expect("small");
            let extent = Extent::between(Lba::ZERO, end).expect("not empty");
            std::hint::black_box(piece_digests(&key, extent, block));
        }
    });
    drop((blocks, frames));
    let log = append(directory, frame_len, LOG_STEP)?;
    let put = append(directory, frame_len, OBJECT_STEP)?;
    let link_len = frame_len.div_ceil(FRAME_LEN as u64);
    let link_len = usize::try_from(link_len).expect("64-bit");
    let link = bare(&Setup::new(link_len, MTU, 0));
    let link_gb = (link_len * FRAME_LEN) as f64 / 1e9;
    let of_link = |s_per_gb: f64| Duration::from_secs_f64(s_per_gb * link_gb);
    Ok(Stages {
        data_len,
        frame_len,
        agent: vec![
            ("compress", compress),
            ("send", of_link(link.send_s_per_gb)),
        ],
        server: vec![
            ("receive", of_link(link.receive_s_per_gb)),
            ("check", check),
            ("log", log),
            ("decompress", decompress),
            ("digest", digest),
            ("write object", put),
        ],
    })
}

/// What is not zero, in blocks of 1 MiB as the agent would close them.
fn data_blocks(image: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut file = File::open(image)?;
    let mut piece = vec![0; ZERO_GRAIN];
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    loop {
        match file.read_exact(&mut piece) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(blocks),
            Err(error) => return Err(error),
        }
        if piece.iter().all(|&byte| byte == 0) {
            continue;
        }
        match blocks.last_mut().filter(|block| block.len() < FRAME_LEN) {
            Some(block) => block.extend_from_slice(&piece),
            None => blocks.push(piece.clone()),
        }
    }
}

/// Writes `len` bytes in steps, each synced, into a file that was zeroed beforehand.
fn append(directory: &Path, len: u64, step: usize) -> io::Result<Duration> {
    let path = directory.join("bare");
    let buffer = AlignedBuffer::new(step);
    let step = step as u64;
    let (file, _) = zeroed(&path, len.next_multiple_of(step))?;
    let mut written = Ok(());
    let took = timed(|| {
        for at in (0..len).step_by(buffer.as_slice().len()) {
            let wrote = file.write_all_at(buffer.as_slice(), at);
            written = wrote.and_then(|()| file.sync_data());
            if written.is_err() {
                return;
            }
        }
    });
    std::fs::remove_file(path)?;
    written.map(|()| took)
}

/// Processor time of this thread in `run`.
fn timed(run: impl FnOnce()) -> Duration {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::try_from(time).expect("never negative")
    };
    let before = now();
    run();
    now() - before
}
