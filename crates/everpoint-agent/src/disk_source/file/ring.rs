//! Reads and writes that wait for a device and not for a thread: the kernel's completion ring (`io_uring`).
//!
//! ```text
//! request ──▶ driver task ──submit──▶ kernel ──▶ device
//!    ▲             │  ▲                              │
//!    └──the answer─┘  └───────eventfd── completions ─┘
//! ```
//!
//! A thread for each request costs two wake-ups more, which on a fast device is most of a small
//! write's time. One task owns the ring; it runs on the guests' threads right behind the connection
//! that asked, so that all requests of one turn go to the kernel in one system call.
//!
//! The kernel uses a request's memory until it is complete, whoever has stopped waiting: the driver
//! keeps buffer and file until then, and gives the memory up for good if its runtime goes down before.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use io_uring::{IoUring, Probe, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

/// Requests that the kernel has at one time. More wait for their turn. Ours: twice what one NBD
/// connection runs; devices queue fewer.
const ENTRIES: u32 = 256;
/// How long to wait when the kernel takes no request at present.
const RETRY: Duration = Duration::from_millis(1);
/// Longest part of a request that is asked for at once. Unit: bytes. The kernel moves at most 2 GiB.
const PART_LEN_MAX: usize = 1 << 30;

/// Where requests are handed in. The driver ends when this is gone and what was begun is done.
pub(super) struct Ring {
    /// Unbounded: memory and count of what is handed in are bounded by the budgets of those who do.
    requests: mpsc::UnboundedSender<Request>,
}

/// Bytes to write, or room for bytes to read.
enum Memory {
    Write(Bytes),
    Read(Vec<u8>),
}

struct Request {
    file: Arc<File>,
    /// Unit: bytes, in the file.
    at: u64,
    memory: Memory,
    /// The part of `memory` that is meant: where it begins, and what is behind it. Unit: bytes.
    from: usize,
    until: usize,
    answer: oneshot::Sender<io::Result<Memory>>,
}

struct Driver {
    ring: IoUring,
    completed: AsyncFd<OwnedFd>,
    requests: mpsc::UnboundedReceiver<Request>,
    /// What has no place in the ring yet.
    waiting: VecDeque<Request>,
    /// What the kernel has, by the number that it has it under.
    running: Vec<Option<Request>>,
    free: Vec<usize>,
    /// What the kernel could not do at that moment.
    again: Vec<Request>,
    /// Entries lie in the ring that the kernel did not take.
    refused: bool,
    /// When to try again what was refused.
    retry_at: Option<Instant>,
}

impl Ring {
    /// Makes a ring, and the task that drives it on the current runtime.
    ///
    /// # Errors
    ///
    /// When the kernel has no rings that read and write, or none for this process.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub(super) fn start() -> io::Result<Self> {
        let ring = IoUring::new(ENTRIES)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Read::CODE) || !probe.is_supported(opcode::Write::CODE) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        ring.submitter().register_eventfd(bell.as_raw_fd())?;
        // SAFETY: an `OwnedFd` is one open file as long as it lives, and nothing here closes it before.
        #[expect(unsafe_code, reason = "the event loop is given a file descriptor")]
        let completed = unsafe { AsyncFd::register_with_interest(bell, Interest::READABLE) }?;
        let (requests, receiver) = mpsc::unbounded_channel();
        let places = usize::try_from(ENTRIES).expect("small");
        let driver = Driver {
            ring,
            completed,
            requests: receiver,
            waiting: VecDeque::new(),
            running: (0..places).map(|_| None).collect(),
            free: (0..places).rev().collect(),
            again: Vec::new(),
            refused: false,
            retry_at: None,
        };
        tokio::spawn(driver.run());
        Ok(Self { requests })
    }

    /// Writes all of `data`. Goes on when it is not waited for any more.
    pub(super) async fn write(&self, file: &Arc<File>, at: u64, data: Bytes) -> io::Result<()> {
        let until = data.len();
        self.perform(file, at, Memory::Write(data), 0, until)
            .await
            .map(drop)
    }

    /// Fills `buffer` from `from` on.
    pub(super) async fn read(
        &self,
        file: &Arc<File>,
        at: u64,
        buffer: Vec<u8>,
        from: usize,
        len: usize,
    ) -> io::Result<Vec<u8>> {
        assert!(
            from + len <= buffer.len(),
            "more than the buffer has room for"
        );
        let memory = Memory::Read(buffer);
        match self.perform(file, at, memory, from, from + len).await? {
            Memory::Read(buffer) => Ok(buffer),
            Memory::Write(_) => unreachable!("the request's own memory comes back"),
        }
    }

    async fn perform(
        &self,
        file: &Arc<File>,
        at: u64,
        memory: Memory,
        from: usize,
        until: usize,
    ) -> io::Result<Memory> {
        let (answer, answered) = oneshot::channel();
        let file = Arc::clone(file);
        let request = Request {
            file,
            at,
            memory,
            from,
            until,
            answer,
        };
        // Both fail only while the runtime goes down.
        let gone = || io::Error::from(io::ErrorKind::Interrupted);
        self.requests.send(request).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Driver {
    async fn run(mut self) {
        let mut handed_in = Vec::new();
        let mut open = true;
        while open || !self.is_idle() {
            // Every arm is cancel-safe.
            tokio::select! {
                count = self.requests.recv_many(&mut handed_in, self.running.len()), if open => {
                    open = count != 0;
                    self.waiting.extend(handed_in.drain(..));
                }
                ready = self.completed.readable() => {
                    // Before the ring is looked at. Every completion after that is an edge of its own, whether
                    // the count was read or not.
                    ready.expect("an eventfd can be waited for").clear_ready();
                }
                () = sleep_until(self.retry_at.unwrap_or_else(Instant::now)), if self.retry_at.is_some() => {}
            }
            self.reap();
            if self.retry_at.is_some_and(|at| at <= Instant::now()) {
                self.retry_at = None;
                self.waiting.extend(self.again.drain(..));
            }
            self.submit();
            if self.refused || !self.again.is_empty() {
                self.retry_at.get_or_insert_with(|| Instant::now() + RETRY);
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.again.is_empty() && self.free.len() == self.running.len()
    }

    /// Hands what waits to the kernel, as far as there are places.
    fn submit(&mut self) {
        let mut pushed = self.refused;
        while let (Some(&place), false) = (self.free.last(), self.waiting.is_empty()) {
            let mut request = self.waiting.pop_front().expect("not empty");
            let entry = request.entry().user_data(place as u64);
            // SAFETY: the entry points into `request`'s own heap memory and names its open file. Both
            // stay in `running` until the kernel has reported this entry, or are leaked by `drop`.
            #[expect(unsafe_code, reason = "the kernel is given memory")]
            let taken = unsafe { self.ring.submission().push(&entry) };
            if taken.is_err() {
                // As many places as entries: only what was refused before can lie there.
                self.waiting.push_front(request);
                break;
            }
            self.free.pop();
            self.running[place] = Some(request);
            pushed = true;
        }
        if pushed {
            if let Err(error) = self.ring.submit() {
                tracing::debug!(%error, "the kernel takes no request at present");
            }
            // It may also have taken some of them.
            self.refused = !self.ring.submission().is_empty();
        }
    }

    /// Answers what is complete; what is partly done goes on.
    fn reap(&mut self) {
        while let Some(entry) = self.ring.completion().next() {
            let place = usize::try_from(entry.user_data()).expect("a place");
            let request = self.running[place].take().expect("reported once");
            self.free.push(place);
            match request.advance(entry.result()) {
                Advanced::Partly(request) => self.waiting.push_front(request),
                Advanced::NotNow(request) => self.again.push(request),
                Advanced::Done(request, outcome) => {
                    // Before the answer, so that who is answered finds the file let go of.
                    drop(request.file);
                    // Who does not wait any more needs no answer.
                    let _ = request.answer.send(outcome.map(|()| request.memory));
                }
            }
        }
    }
}

impl Drop for Driver {
    /// The kernel may still read from, or write to, what it has: that memory is never used again.
    fn drop(&mut self) {
        for request in self.running.drain(..).flatten() {
            std::mem::forget(request.memory);
        }
    }
}

enum Advanced {
    Partly(Request),
    NotNow(Request),
    Done(Request, io::Result<()>),
}

impl Request {
    fn entry(&mut self) -> squeue::Entry {
        let file = types::Fd(self.file.as_raw_fd());
        let part = self.from..self.until.min(self.from + PART_LEN_MAX);
        let len = u32::try_from(part.len()).expect("at most 1 GiB");
        match &mut self.memory {
            Memory::Write(data) => {
                let write = opcode::Write::new(file, data[part].as_ptr(), len);
                write.offset(self.at).build()
            }
            Memory::Read(buffer) => {
                let read = opcode::Read::new(file, buffer[part].as_mut_ptr(), len);
                read.offset(self.at).build()
            }
        }
    }

    /// Notes what the kernel reports: bytes moved, or an error number below zero.
    fn advance(mut self, result: i32) -> Advanced {
        let Ok(moved) = usize::try_from(result) else {
            let error = io::Error::from_raw_os_error(-result);
            return match Errno::from_io_error(&error) {
                Some(Errno::INTR) => Advanced::Partly(self),
                // The kernel's own attempt not to wait, or the end of the thread that handed it in: both
                // say nothing about the device.
                Some(Errno::AGAIN | Errno::CANCELED) => Advanced::NotNow(self),
                _ => Advanced::Done(self, Err(error)),
            };
        };
        self.from += moved;
        self.at += moved as u64;
        if self.from == self.until {
            return Advanced::Done(self, Ok(()));
        }
        if moved == 0 {
            let kind = match self.memory {
                Memory::Write(_) => io::ErrorKind::WriteZero,
                Memory::Read(_) => io::ErrorKind::UnexpectedEof,
            };
            return Advanced::Done(self, Err(kind.into()));
        }
        Advanced::Partly(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> (Request, oneshot::Receiver<io::Result<Memory>>) {
        let (answer, answered) = oneshot::channel();
        let request = Request {
            file: Arc::new(tempfile::tempfile().expect("a file")),
            at: 4_096,
            memory: Memory::Write(Bytes::from(vec![7; 2_048])),
            from: 512,
            until: 2_048,
            answer,
        };
        (request, answered)
    }

    fn done(advanced: Advanced) -> io::Result<()> {
        match advanced {
            Advanced::Done(_, outcome) => outcome,
            _ => panic!("it is not over"),
        }
    }

    #[test]
    fn a_request_that_is_partly_done_goes_on_behind_that_part() {
        let Advanced::Partly(rest) = request().0.advance(1_024) else {
            panic!("512 bytes are left");
        };
        assert_eq!((rest.at, rest.from, rest.until), (5_120, 1_536, 2_048));
        done(rest.advance(512)).expect("all of it");
        let nothing = done(request().0.advance(0)).expect_err("nothing moved");
        assert_eq!(nothing.kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn what_says_nothing_about_the_device_is_tried_again_and_the_rest_is_an_error() {
        let result = |errno: Errno| -errno.raw_os_error();
        let interrupted = request().0.advance(result(Errno::INTR));
        assert!(matches!(interrupted, Advanced::Partly(rest) if rest.from == 512));
        for errno in [Errno::AGAIN, Errno::CANCELED] {
            let advanced = request().0.advance(result(errno));
            assert!(matches!(advanced, Advanced::NotNow(rest) if rest.from == 512));
        }
        let error = done(request().0.advance(result(Errno::IO))).expect_err("the device failed");
        assert_eq!(Errno::from_io_error(&error), Some(Errno::IO));
    }
}
