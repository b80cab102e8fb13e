//! Requests to targets, and what becomes of them.

use everpoint_format::replica::Mark;
use everpoint_process_server::apply_core::{PageWork, PartFrom};
use everpoint_units::Extent;

use super::super::faults::Node;
use super::super::oracle::index;
use super::super::target::{Asked, Change as Wanted, pages_of};
use super::*;

impl World<'_> {
    /// Asks the target on behalf of a replica. Whatever becomes of its server, the request is on its way then.
    pub(super) fn ask_target(&mut self, server: usize, disk: DiskId, effect: Effect) {
        if self.conditions.is_dead(Node::Server(server)) {
            return;
        }
        let replica = self.replica(server, disk).expect("it asks");
        let number = replica.number;
        let change = self.change_of(server, disk, &effect);
        let asked = Asked {
            server,
            life: self.servers[server].life_no,
            disk,
            replica: number,
            effect,
            change,
        };
        let delay = self.target_delay();
        self.schedule.after(delay, Event::Target(Box::new(asked)));
    }

    fn target_delay(&mut self) -> Duration {
        let most = match self.healed {
            true => self.plan.shape.store_us_max.min(20_000),
            false => self.plan.shape.store_us_max,
        };
        Duration::from_micros(200 + self.draws.replica.below(most) / 2)
    }

    /// What a request changes, with the bytes that it carries: those that the target has already are read now.
    fn change_of(&self, server: usize, disk: DiskId, effect: &Effect) -> Option<Wanted> {
        match effect {
            Effect::Create { len, fence } => Some(Wanted::Create(*len, *fence)),
            Effect::Raise { to } => Some(Wanted::Raise(*to)),
            Effect::PutMark { mark, fence, at } => {
                self.expect_last_page(disk, mark, at.0);
                Some(Wanted::Mark(*mark, *fence))
            }
            Effect::Wipe { len, fence } => Some(Wanted::Put(0, vec![0; pages_of(*len)], *fence)),
            Effect::Work { fence, work, .. } => {
                let at = index(work.extent().start().sector());
                let contents = match work {
                    PageWork::Clear { extent } => vec![0; sectors(extent)],
                    PageWork::Put { parts, .. } => {
                        let life = self.servers[server].life.as_ref()?;
                        let arenas = &life.replicas.get(&disk)?.arenas;
                        let pages = self.targets.get(&disk)?.pages();
                        let mut contents = Vec::new();
                        for part in parts {
                            let (at, len) =
                                (index(part.extent.start().sector()), sectors(&part.extent));
                            match part.from {
                                PartFrom::Zero => contents.resize(contents.len() + len, 0),
                                PartFrom::Staged { window, at } => {
                                    contents.extend(&arenas[&window][index(at.0)..][..len]);
                                }
                                PartFrom::Target => contents.extend(&pages[at..at + len]),
                            }
                        }
                        contents
                    }
                };
                Some(Wanted::Put(at, contents, *fence))
            }
            _ => None,
        }
    }

    /// A mark is put where a mark is.
    fn expect_last_page(&self, disk: DiskId, mark: &Mark, at: u64) {
        let pages = self
            .targets
            .get(&disk)
            .map_or(0, |target| target.pages().len());
        let is_last = at + SECTOR_LEN == pages as u64 * SECTOR_LEN;
        let fits = Mark::target_len(mark.sectors) == ByteLen(at + SECTOR_LEN);
        assert!(is_last || !fits, "a mark that is not on the last page");
    }

    /// The target carries a request out, or does not, and answers, or does not.
    pub(crate) fn target_acts(&mut self, asked: Asked) {
        let mut told = self.target_told(&asked);
        let changes = asked.change.is_some() || matches!(asked.effect, Effect::Resize { .. });
        if told == Err(Remedy::RaiseFence) && !changes {
            told = Err(Remedy::Again { after: None });
        }
        let delay = match told {
            Err(Remedy::RaiseFence) => Duration::from_millis(self.draws.replica.between(50, 400)),
            _ => self.target_delay(),
        };
        let Asked {
            server,
            life,
            disk,
            replica,
            effect,
            ..
        } = asked;
        let event = ServerEvent::TargetSays(disk, replica, Box::new((effect, told)));
        self.schedule
            .after(delay, Event::Server(server, life, event));
    }

    fn target_told(&mut self, asked: &Asked) -> Result<Told, Remedy> {
        let shape = &self.plan.shape;
        let random = &mut self.draws.replica;
        let (mut unclear, mut late, mut lost, mut busy) = (false, false, false, false);
        if !self.healed {
            unclear = random.chance(shape.unknown_per_mille);
            late = random.chance(shape.late_per_mille);
            lost = random.chance(shape.unknown_per_mille / 2);
            busy = random.chance(shape.twice_per_mille / 2);
        }
        if matches!(asked.effect, Effect::AskWhoLeads) {
            let now = self.schedule.now();
            if lost || self.conditions.store_refuses(asked.server, now) {
                return Err(Remedy::Again { after: None });
            }
            let lives = self.servers[asked.server].life_no == asked.life;
            let leads = self.who_leads(asked.server, asked.disk).filter(|_| lives);
            return leads.map(Told::Leads).ok_or(Remedy::Again { after: None });
        }
        if lost || busy {
            self.outcome.small_faults += 1;
            return Err(match lost {
                true => Remedy::RaiseFence,
                false => Remedy::Again { after: None },
            });
        }
        let target = self.targets.entry(asked.disk).or_default();
        let change = match &asked.effect {
            Effect::Look => return Ok(Told::Looked(target.look())),
            Effect::ReadMark { .. } => return Ok(Told::Mark(target.read_mark())),
            Effect::Lease => {
                target.lease();
                return Ok(Told::Done);
            }
            Effect::Resize { len, fence } => {
                let lease = target.lease();
                if *fence != target.fence() {
                    return Err(Remedy::LookWhoLeads);
                }
                Wanted::Resize(*len, lease)
            }
            _ => asked.change.clone().expect("it changes the target"),
        };
        if late {
            let delay = Duration::from_millis(self.draws.replica.between(10, 3_000));
            let event = Event::TargetLate(asked.disk, Box::new(change));
            self.schedule.after(delay, event);
            return Err(Remedy::RaiseFence);
        }
        let told = self.change_target(asked.disk, &change, false);
        if unclear {
            self.outcome.small_faults += 1;
            return Err(Remedy::RaiseFence);
        }
        told
    }

    /// A change that its asker had given up, or is not there any more to hear of.
    pub(crate) fn target_late(&mut self, disk: DiskId, change: &Wanted) {
        self.outcome.small_faults += 1;
        self.tell(|| {
            format!(
                "late at the replica of {:?}: {}",
                place_of(disk),
                said(change)
            )
        });
        let _ = self.change_target(disk, change, true);
    }

    /// Carries a change out, and looks at what became of the target.
    fn change_target(
        &mut self,
        disk: DiskId,
        change: &Wanted,
        looks: bool,
    ) -> Result<Told, Remedy> {
        let target = self.targets.entry(disk).or_default();
        let told = target.carry_out(change);
        let looks = looks || matches!(change, Wanted::Mark(..)) || self.draws.replica.chance(125);
        if told.is_ok() && looks {
            self.check_replica(disk, matches!(change, Wanted::Mark(..)));
        }
        told
    }
}

/// A change in few words.
fn said(change: &Wanted) -> String {
    match change {
        Wanted::Put(at, contents, fence) => {
            format!("{} pages from {at} on, {fence}", contents.len())
        }
        other => format!("{other:?}"),
    }
}

fn sectors(extent: &Extent) -> usize {
    index(u64::from(extent.sectors().get()))
}
