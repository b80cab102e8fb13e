//! The freezer and its guard: two processes of few pages, all of them locked in memory, which touch no file while
//! anything is frozen. What they do is decided in [`crate::freeze_core`].

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::setpriority_process;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::clock::Clock;
use crate::freeze_core::words::{Answer, Order, Step, Trouble};
use crate::freeze_core::{Action, Event, FreezerCore};
use crate::freezer::lines::{Gone, Lines, wait};
use crate::freezer::mounts::Mounts;
use crate::freezer::thawers::{Thaw, Thawers, Watch};

/// This program, also after its file was replaced.
pub(crate) const SELF: &str = "/proc/self/exe";
/// Before others: the guard's deadline counts on it.
const NICE: i32 = -10;

/// Runs a freezer, or its guard, until whoever started it is gone.
pub fn run_freezer(filesystems: &[PathBuf], is_guard: bool) {
    let settled = match Settled::new() {
        Ok(settled) => settled,
        Err(error) => {
            let number = error.raw_os_error().unwrap_or(0);
            let trouble = Trouble::new(Step::Lock, 0, number);
            let _ = say(&mut io::stdout(), Answer::Failed(trouble));
            return;
        }
    };
    if is_guard {
        guard(filesystems, &settled.stdin);
    } else {
        freezer(filesystems, &settled.stdin);
    }
}

/// What keeps a process in memory, and alive when its group is told to end.
struct Settled {
    /// Without a buffer of its own, so that what was read and what can be read are the same.
    stdin: File,
    _signals: Vec<Signal>,
    _runtime: Runtime,
}

impl Settled {
    fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        // A service that stops tells all of its processes. These two end when the agent has ended, and thaw then.
        let signals = {
            let _runtime = runtime.enter();
            let kinds = [
                SignalKind::terminate(),
                SignalKind::interrupt(),
                SignalKind::hangup(),
            ];
            kinds
                .into_iter()
                .map(signal)
                .collect::<io::Result<Vec<_>>>()?
        };
        // Neither is needed, and both may be refused.
        let _ = setpriority_process(None, NICE);
        let _ = fs::write("/proc/self/oom_score_adj", "-1000");
        mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)?;
        Ok(Self {
            stdin: File::from(io::stdin().as_fd().try_clone_to_owned()?),
            _signals: signals,
            _runtime: runtime,
        })
    }
}

fn say(to: &mut impl Write, line: impl std::fmt::Display) -> io::Result<()> {
    // In one write, so that no reader sees a part.
    to.write_all(format!("{line}\n").as_bytes())?;
    to.flush()
}

/// The freezer's end of the guard's pipes.
struct GuardLink {
    to: ChildStdin,
    from: Lines<ChildStdout>,
    _child: Child,
}

struct Freezer<'a> {
    filesystems: &'a [PathBuf],
    clock: Clock,
    core: FreezerCore,
    guard: GuardLink,
    /// From the wish to freeze until all is thawed.
    opened: Option<Opened>,
}

struct Opened {
    mounts: Arc<Mounts>,
    thawers: Thawers,
}

fn freezer(filesystems: &[PathBuf], stdin: &File) {
    let guard = match GuardLink::begin(filesystems) {
        Ok(guard) => guard,
        Err(trouble) => {
            let _ = say(&mut io::stdout(), Answer::Failed(trouble));
            return;
        }
    };
    let freezer = Freezer {
        filesystems,
        clock: Clock::start(),
        core: FreezerCore::new(filesystems.len()),
        guard,
        opened: None,
    };
    freezer.run(Lines::new(stdin));
}

impl Freezer<'_> {
    fn run(mut self, mut agent: Lines<&File>) {
        if say(&mut io::stdout(), Answer::Ready).is_err() {
            return;
        }
        loop {
            let pipes = [agent.pipe(), self.guard.from.pipe()];
            let [asked, guarded] = wait(pipes, self.core.deadline(), self.clock);
            // Time first: an order that came late is late.
            self.core.handle(Event::Tick, self.clock.now());
            if guarded {
                // At this time a guard says nothing.
                self.core.handle(Event::GuardGone, self.clock.now());
            }
            if asked {
                match agent.read() {
                    Ok(lines) => {
                        for line in lines {
                            if self.take_order(&line) {
                                return;
                            }
                        }
                    }
                    Err(Gone) => self.core.handle(Event::AgentGone, self.clock.now()),
                }
            }
            if self.act() {
                return;
            }
        }
    }

    /// Does as it is told; true if that was the end.
    fn take_order(&mut self, line: &str) -> bool {
        let event = match Order::parse(line) {
            Some(Order::Freeze { hold_max }) if self.opened.is_none() => {
                match Opened::new(self.filesystems) {
                    Ok(opened) => {
                        self.opened = Some(opened);
                        Event::Freeze { hold_max }
                    }
                    Err(trouble) => {
                        // An agent that does not hear it is gone, which the next read says.
                        let _ = say(&mut io::stdout(), Answer::Failed(trouble));
                        return false;
                    }
                }
            }
            Some(Order::Thaw) => Event::Thaw,
            _ => Event::AgentGone,
        };
        self.core.handle(event, self.clock.now());
        self.act()
    }

    /// Does what is decided, until nothing is; true if that was the end.
    fn act(&mut self) -> bool {
        while let Some(action) = self.core.poll() {
            let event = match action {
                Action::Sync(index) => {
                    let begun = self.clock.now();
                    let synced = self.opened().mounts.sync(index);
                    let took = self.clock.now().since(begun);
                    Event::Synced(synced.map(|()| took).map_err(|error| error.raw_os_error()))
                }
                Action::Arm { hold_max } => match self.guard.arm(hold_max) {
                    Ok(armed) => Event::Armed(armed),
                    Err(Gone) => Event::GuardGone,
                },
                Action::Freeze(index) => {
                    let froze = self.opened().mounts.freeze(index);
                    Event::Froze(froze.map_err(|error| error.raw_os_error()))
                }
                Action::Thaw(held) => Event::Thawed {
                    was_frozen: self.opened().thawers.thaw(held),
                },
                Action::Disarm => {
                    // A guard that is gone is noticed at the next look.
                    let _ = say(&mut self.guard.to, Order::Disarm);
                    self.opened = None;
                    continue;
                }
                Action::Say(answer) => {
                    let _ = say(&mut io::stdout(), answer);
                    continue;
                }
                Action::End => return true,
            };
            self.core.handle(event, self.clock.now());
        }
        false
    }

    fn opened(&self) -> &Opened {
        let opened = self.opened.as_ref();
        opened.expect("opened before the core was told to freeze")
    }
}

impl Opened {
    fn new(filesystems: &[PathBuf]) -> Result<Self, Trouble> {
        let mounts = Arc::new(Mounts::open(filesystems)?);
        let thawers = Thawers::start(&thaw(&mounts), filesystems.len());
        let thawers = thawers.map_err(|error| no_guard(&error))?;
        Ok(Self { mounts, thawers })
    }
}

impl GuardLink {
    fn begin(filesystems: &[PathBuf]) -> Result<Self, Trouble> {
        let mut child = command(filesystems, true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| no_guard(&error))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (to, from) = pipes.expect("both were asked for");
        let mut guard = Self {
            to,
            from: Lines::new(from),
            _child: child,
        };
        match guard.answer() {
            Ok(Answer::Ready) => Ok(guard),
            Ok(Answer::Failed(trouble)) => Err(trouble),
            Ok(_) | Err(Gone) => Err(no_guard(&io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn arm(&mut self, hold_max: Duration) -> Result<Result<(), Trouble>, Gone> {
        say(&mut self.to, Order::Arm { hold_max }).map_err(|_| Gone)?;
        match self.answer()? {
            Answer::Armed => Ok(Ok(())),
            Answer::Failed(trouble) => Ok(Err(trouble)),
            _ => Err(Gone),
        }
    }

    /// The one answer that is waited for.
    fn answer(&mut self) -> Result<Answer, Gone> {
        loop {
            let lines = self.from.read()?;
            if let Some(line) = lines.first() {
                return Answer::parse(line).ok_or(Gone);
            }
        }
    }
}

/// How this program is run as a freezer or guard, in a group of its own: what a terminal tells the agent's group is
/// not for it.
pub(crate) fn command(filesystems: &[PathBuf], is_guard: bool) -> Command {
    let mut command = Command::new(SELF);
    command.arg0("everpoint").arg("freezer").process_group(0);
    if is_guard {
        command.arg("--guard");
    }
    for filesystem in filesystems {
        command.arg("--filesystem").arg(filesystem);
    }
    command
}

/// Reads orders; the threads of a [`Watch`] keep the time.
fn guard(filesystems: &[PathBuf], stdin: &File) {
    let clock = Clock::start();
    let mut freezer = Lines::new(stdin);
    let mut watch: Option<Watch> = None;
    if say(&mut io::stdout(), Answer::Ready).is_err() {
        return;
    }
    while let Ok(lines) = freezer.read() {
        for line in lines {
            if let Some(before) = watch.take() {
                before.disarm();
            }
            if let Some(Order::Arm { hold_max }) = Order::parse(&line) {
                let answer = match arm(filesystems, hold_max, clock) {
                    Ok(armed) => {
                        watch = Some(armed);
                        Answer::Armed
                    }
                    Err(trouble) => Answer::Failed(trouble),
                };
                // A freezer that does not hear it is gone, which the next read says.
                let _ = say(&mut io::stdout(), answer);
            }
        }
    }
    if let Some(watch) = watch {
        watch.freezer_gone();
    }
}

fn arm(filesystems: &[PathBuf], hold_max: Duration, clock: Clock) -> Result<Watch, Trouble> {
    let mounts = Arc::new(Mounts::open(filesystems)?);
    let watch = Watch::start(&thaw(&mounts), filesystems.len(), hold_max, clock);
    watch.map_err(|error| no_guard(&error))
}

fn thaw(mounts: &Arc<Mounts>) -> Thaw {
    let mounts = Arc::clone(mounts);
    Arc::new(move |index| mounts.thaw(index))
}

fn no_guard(error: &io::Error) -> Trouble {
    Trouble::new(Step::Guard, 0, error.raw_os_error().unwrap_or(0))
}
