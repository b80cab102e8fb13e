//! What a server asks the store for, request by request: sealing, reading machines' paths, creating
//! objects, compares, take-overs.

mod machine;
mod sealing;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use everpoint_format::digest::PIECE_LEN;
use everpoint_format::object::Seal;
use everpoint_format::origin::Origin;
use everpoint_journal::history::MachineHistory;
use everpoint_journal::path::{Need, ObjectRead, PathEnd, PathWalk, Verdict};
use everpoint_journal::sealing::{Found, SealOrder, Sealing, Step};
use everpoint_process_server::boot_core::{BootStep, next_journal};
use everpoint_process_server::compare_core::{CompareCore, Compared};
use everpoint_process_server::machine_core::MachineCore;
use everpoint_process_server::ownership_core::{Claim, OwnershipCore};
use everpoint_units::{JournalId, MachineId, ObjectNo};
use everpoint_vault::history::ObjectFound;
use everpoint_wire::{Compare, ToAgent};

use super::faults::Node;
use super::link::{LinkId, Message, Side};
use super::server::{Owned, ServerEvent};
use super::store::{Name, Reply, Request, Stored};
use super::{DIGEST_KEY, VAULT, World, machine_of, server_id};

/// Something that takes several requests.
pub(crate) enum Job {
    ListJournals,
    Seal {
        sealing: Sealing,
        successor: JournalId,
        compares: bool,
        purpose: Purpose,
    },
    Load {
        machine: MachineId,
        ownership: OwnershipCore,
        before: JournalId,
        walk: PathWalk,
        history: MachineHistory,
        origin: Option<Bytes>,
        compares: bool,
    },
    Put {
        name: Name,
        bytes: Bytes,
        number: ObjectNo,
        compares: bool,
    },
    AskForEnd {
        journal: JournalId,
        after: ObjectNo,
    },
    Compare {
        machine: MachineId,
        link: LinkId,
        about: Compared,
        asked: Compare,
        walk: PathWalk,
        core: Option<CompareCore>,
    },
}

/// Why a journal is sealed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    Boot,
    /// The own journal, to go on in another, and then to seal that of somebody else.
    Rotate {
        then: JournalId,
    },
    TakeOver,
}

impl Job {
    pub(crate) fn put(journal: JournalId, number: ObjectNo, pieces: &[Bytes]) -> Self {
        Self::Put {
            name: Name::Object(journal, number),
            bytes: Bytes::from(pieces.concat()),
            number,
            compares: false,
        }
    }

    pub(crate) fn compare(
        machine: MachineId,
        link: LinkId,
        about: Compared,
        asked: Compare,
    ) -> Self {
        Self::Compare {
            machine,
            link,
            about,
            asked,
            walk: PathWalk::new(machine),
            core: None,
        }
    }

    /// The next request; `None` while something else has to happen first, or when it is done.
    fn request(&self) -> Option<Request> {
        match self {
            Self::ListJournals => Some(Request::ListJournals),
            Self::Seal {
                sealing, compares, ..
            } => match sealing.step() {
                Step::List => Some(Request::ListJournal(sealing.journal())),
                Step::Read(number) => Some(Request::Read(Name::Object(sealing.journal(), number))),
                Step::Create(seal) => {
                    let name = Name::Object(seal.header.journal, seal.header.number);
                    let bytes = Bytes::from(seal.encode().to_vec());
                    Some(create_or_compare(name, &bytes, *compares))
                }
                Step::ReadEnd | Step::Sealed(_) => None,
            },
            Self::Load {
                machine,
                walk,
                origin,
                compares,
                ..
            } => match origin {
                Some(bytes) => {
                    let name = Name::Origin(*machine);
                    Some(create_or_compare(name, bytes, *compares))
                }
                None => walk.need().map(|need| request_of(*machine, need)),
            },
            Self::Put {
                name,
                bytes,
                compares,
                ..
            } => Some(create_or_compare(*name, bytes, *compares)),
            Self::AskForEnd { journal, .. } => Some(Request::HasEnd(*journal)),
            Self::Compare {
                machine,
                walk,
                core,
                ..
            } => {
                let need = core.as_ref().and_then(|_| walk.need());
                need.map(|need| request_of(*machine, need))
            }
        }
    }
}

/// Creates, or reads what has the name already, to be compared.
fn create_or_compare(name: Name, bytes: &Bytes, compares: bool) -> Request {
    if compares {
        Request::Read(name)
    } else {
        Request::Create(name, bytes.clone())
    }
}

pub(crate) fn request_of(machine: MachineId, need: Need) -> Request {
    match need {
        Need::Origin => Request::Read(Name::Origin(machine)),
        Need::Listing(journal) => Request::ListJournal(journal),
        Need::Object(journal, number) => Request::Read(Name::Object(journal, number)),
    }
}

/// What a create came to.
enum Created {
    Mine,
    Others,
    /// The name is taken: it is to be read and compared.
    Compare,
    /// The same again, with the same bytes.
    Again,
}

/// What an answer to [`create_or_compare`] means (R9).
fn created(reply: &Reply, bytes: &Bytes) -> Created {
    match reply {
        Reply::Created => Created::Mine,
        Reply::Exists => Created::Compare,
        Reply::Object(Some(stored)) if stored.bytes == *bytes => Created::Mine,
        Reply::Object(Some(_)) => Created::Others,
        _ => Created::Again,
    }
}

/// Hands a walk what it asked for; the object, if it is part of the path.
pub(crate) fn walk_on(
    walk: &mut PathWalk,
    reply: &Reply,
) -> Option<(JournalId, ObjectNo, Rc<Stored>)> {
    match (walk.need()?, reply) {
        (Need::Origin, Reply::Object(found)) => {
            let origin = found.as_ref().map(|stored| Origin::decode(&stored.bytes));
            match origin {
                None => walk.handle_origin(Ok(None)),
                Some(Ok(origin)) => walk.handle_origin(Ok(Some(&origin))),
                Some(Err(_)) => walk.handle_origin(Err(())),
            }
            None
        }
        (Need::Listing(_), Reply::Listing(listing)) => {
            walk.handle_listing(listing);
            None
        }
        (Need::Object(journal, number), Reply::Object(found)) => {
            let read = match found.as_ref().and_then(|stored| stored.found.as_ref()) {
                Some(ObjectFound::Data(data, _)) => ObjectRead::Data(data),
                Some(ObjectFound::Seal(seal)) => ObjectRead::Seal(seal),
                Some(ObjectFound::Damaged(_)) => ObjectRead::Damaged,
                Some(ObjectFound::Missing) | None => ObjectRead::Missing,
            };
            let folds = walk.handle_object(read) == Verdict::Fold;
            let stored = found.as_ref().filter(|_| folds)?;
            Some((journal, number, Rc::clone(stored)))
        }
        (need, reply) => panic!("{need:?} was answered with {reply:?}"),
    }
}

impl World<'_> {
    pub(crate) fn begin_job(&mut self, server: usize, job: Job) {
        let life = self.server_life(server);
        life.next_job += 1;
        let id = life.next_job;
        life.jobs.insert(id, job);
        self.job_goes_on(server, id);
    }

    pub(crate) fn job_goes_on(&mut self, server: usize, id: u64) {
        let life = self.server_life(server);
        if let Some(request) = life.jobs.get(&id).and_then(Job::request) {
            self.ask_store(server, id, request);
        }
    }

    /// The store answered a job.
    pub(crate) fn answered(&mut self, server: usize, id: u64, reply: Reply) {
        if matches!(reply, Reply::Unknown) {
            let delay = Duration::from_millis(self.draws.store.between(20, 300));
            return self.server_after(server, delay, ServerEvent::Again(id));
        }
        let Some(job) = self.server_life(server).jobs.remove(&id) else {
            return;
        };
        let left = self.job_step(server, job, &reply);
        if let (Some(job), Some(life)) = (left, &mut self.servers[server].life) {
            life.jobs.insert(id, job);
            self.job_goes_on(server, id);
        }
    }

    /// One step of a job; what is left of it.
    fn job_step(&mut self, server: usize, job: Job, reply: &Reply) -> Option<Job> {
        match job {
            Job::ListJournals => {
                if let Reply::Journals(journals) = reply {
                    self.boot_listed(server, journals);
                }
                None
            }
            Job::Seal { .. } => self.seal_step(server, job, reply),
            Job::Load { .. } => self.load_step(server, job, reply),
            Job::Put { .. } => self.put_step(server, job, reply),
            Job::AskForEnd { after, .. } => {
                if matches!(reply, Reply::End(true)) {
                    self.server_ends(server, "fenced");
                    return None;
                }
                let life = self.server_life(server);
                let commit = life.commit.as_mut().expect("it serves");
                commit.handle_end_absent(after);
                self.commit(server);
                None
            }
            Job::Compare { .. } => self.compare_step(job, reply),
        }
    }

    fn put_step(&mut self, server: usize, job: Job, reply: &Reply) -> Option<Job> {
        let Job::Put {
            name,
            bytes,
            number,
            ..
        } = job
        else {
            return None;
        };
        let again = |compares| Job::Put {
            name,
            bytes: bytes.clone(),
            number,
            compares,
        };
        match created(reply, &bytes) {
            Created::Again => Some(again(false)),
            Created::Compare => Some(again(true)),
            Created::Mine => {
                let life = self.server_life(server);
                life.commit
                    .as_mut()
                    .expect("it serves")
                    .handle_stored(number);
                self.commit(server);
                None
            }
            Created::Others => {
                self.server_ends(server, "fenced");
                None
            }
        }
    }

    /// Compares begin when the generation's first block is committed.
    pub(crate) fn compares_go_on(&mut self, server: usize) {
        let life = self.server_life(server);
        let machines = &life.machines;
        let is_committed = |machine: &MachineId, about: &Compared| {
            let owned = machines.get(machine).map(|machine| &machine.owned);
            let Some(Owned::Serves(core)) = owned else {
                return false;
            };
            let committed = core.committed(about.disk);
            committed.is_some_and(|at| at.generation == about.generation)
        };
        let mut begun = Vec::new();
        for (id, job) in &mut life.jobs {
            if let Job::Compare {
                machine,
                about,
                asked,
                core,
                ..
            } = job
                && core.is_none()
                && is_committed(machine, about)
            {
                let affordable = 64 * PIECE_LEN;
                let len = about.window_len(asked.first_piece, affordable, asked.digests.len());
                let first = asked.first_piece;
                *core = Some(CompareCore::new(*about, DIGEST_KEY, first, len));
                begun.push(*id);
            }
        }
        for id in begun {
            self.job_goes_on(server, id);
        }
    }

    fn compare_step(&mut self, mut job: Job, reply: &Reply) -> Option<Job> {
        let Job::Compare {
            link,
            about,
            asked,
            walk,
            core: Some(core),
            ..
        } = &mut job
        else {
            return Some(job);
        };
        if let Some((_, _, stored)) = walk_on(walk, reply)
            && let Some(data) = stored.index()
        {
            data.index
                .sections
                .iter()
                .for_each(|section| core.fold(section));
        }
        if walk.end().is_none() {
            return Some(job);
        }
        let answer = ToAgent::Differences {
            request: asked.request,
            differs: core.differences(asked),
        };
        let (link, disk) = (*link, about.disk);
        self.send(link, Side::Server, Message::Said(disk, answer));
        None
    }
}

fn loading(machine: MachineId, ownership: OwnershipCore, before: JournalId) -> Job {
    Job::Load {
        machine,
        ownership,
        before,
        walk: PathWalk::new(machine),
        history: MachineHistory::new(machine),
        origin: None,
        compares: false,
    }
}
