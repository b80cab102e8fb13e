//! What may be deleted from a vault now, and why the rest may not (R13, R18, holds).
//!
//! ```text
//!  holds ──▶ manifests ──▶ layers ──▶ packs
//!                 │            └────▶ journal objects
//!                 └─ the journals that it has not passed
//! ```
//!
//! A machine's newest manifest keeps what the arrows lead to, and so does each older one that a hold keeps. Whatever
//! nothing leads to is garbage. Nobody needs to know since when something is not linked: what is deleted is what no
//! manifest leads to that anybody may still read.
//!
//! That is true of what was listed in this order: the manifests of every machine; *then* the holds; then what the held
//! ones link. A reader lists manifests, creates its hold, and lists again. If its hold came too late to be listed here,
//! its second listing came later still and shows the newest manifest, or one that was made since and links nothing that
//! the newest does not link and that is named at or below it. So a view stays good however long its plan takes, and one
//! that was cut short is simply made again. Those who plan at the same time do not disturb each other.
//!
//! Referring comes before referred to, so that a plan that was cut short leaves nothing that names what is gone.

use std::fmt;

use everpoint_units::{JournalId, MachineId, ManifestNo, ObjectNo, RetentionId};

/// What a machine's history was before its first manifest: nothing is folded.
static NOTHING: Links = Links {
    passed: Vec::new(),
    layers: Vec::new(),
    packs: Vec::new(),
};

/// A hold's name.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HoldId(pub [u8; 16]);

/// What was listed and read of a vault, in the order that the module names.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Inventory {
    /// Each once; those that have no manifest are left out, and keep all that names them.
    pub machines: Vec<MachineInventory>,
    pub journals: Vec<JournalInventory>,
    pub holds: Vec<Hold>,
}

/// What there is of one machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MachineInventory {
    pub machine: MachineId,
    /// The highest that was listed. A worker that made a manifest of its own goes by a listing after that (R17).
    pub newest: ManifestNo,
    pub links: Links,
    /// The others that were listed.
    pub older: Vec<OlderManifest>,
    /// Layers and packs that there are, whoever links them.
    pub layers: Vec<RetentionId>,
    pub packs: Vec<RetentionId>,
}

/// A manifest below the newest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OlderManifest {
    pub number: ManifestNo,
    /// Asked for only if it is held; then, without an answer, it keeps all that the newest does not link.
    pub links: Option<Links>,
}

/// What a manifest leads to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Links {
    /// Journals that its position is past, rising. One that is out of order counts as not passed.
    pub passed: Vec<JournalId>,
    pub layers: Vec<LayerLinks>,
    /// Packs that it names itself.
    pub packs: Vec<RetentionId>,
}

/// Where the places of a layer are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LayerLinks {
    pub layer: RetentionId,
    pub objects: Vec<(JournalId, ObjectNo)>,
    pub packs: Vec<RetentionId>,
}

/// What there is of one journal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JournalInventory {
    pub journal: JournalId,
    pub closing: Closing,
    /// Whom its objects name. Those that were deleted may be left out: whom they named had passed the journal.
    pub machines: Vec<MachineId>,
    /// Its data; no seal.
    pub objects: Vec<ObjectNo>,
}

/// How far a journal is on its way out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Closing {
    Open,
    Sealed,
    /// Sealed, and `end` is there.
    Ended,
}

/// A restore, mount or pin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hold {
    pub hold: HoldId,
    pub machine: MachineId,
    pub keeps: Keeps,
    /// False once it has ended, or has lapsed.
    pub stands: bool,
}

/// Which manifests a hold keeps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Keeps {
    /// This one and all above. Its reader reads the highest that it lists after the hold was created.
    From(ManifestNo),
    /// This one alone. Its reader reads it only if it is still the highest after the hold was created.
    Only(ManifestNo),
}

/// Something that can be deleted.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Item {
    Manifest(MachineId, ManifestNo),
    Layer(MachineId, RetentionId),
    Pack(MachineId, RetentionId),
    Object(JournalId, ObjectNo),
}

/// One thing to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Creates the journal's `end`, a copy of the seal that counts.
    CreateEnd(JournalId),
    Delete(Item),
}

/// Why something is not deleted. Of several reasons the first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, thiserror::Error)]
pub enum Reason {
    #[error("the journal is not sealed")]
    NotSealed,
    #[error("machine {0} has not folded the journal")]
    Behind(MachineId),
    #[error("machine {0} needs it for points that it keeps")]
    Linked(MachineId),
    #[error("hold {0} keeps it")]
    Held(HoldId),
    #[error("it is named above {0}: somebody may be about to link it")]
    NamedAbove(ManifestNo),
}

/// Something that stays.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Stays {
    /// All of a journal's objects.
    Journal(JournalId, Reason),
    Item(Item, Reason),
}

/// What to do, in this order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// What stays and why; a newest manifest is not named.
    pub stays: Vec<Stays>,
    /// Items that could be deleted, too, and were too many for one plan.
    pub left_count: usize,
}

/// What may be deleted, at most `deletes_max` items of it.
pub fn plan(inventory: &Inventory, deletes_max: usize) -> Plan {
    let kept = Kept::of(inventory);
    let mut planned = Planned::default();
    let machines = || inventory.machines.iter().zip(&kept.machines);
    for (machine, kept) in machines() {
        for older in &machine.older {
            let reason = kept.manifest(older.number);
            planned.judge(Item::Manifest(machine.machine, older.number), reason);
        }
    }
    for (machine, kept) in machines() {
        for layer in &machine.layers {
            let reason = kept.named(&kept.layers, layer, layer.number);
            planned.judge(Item::Layer(machine.machine, *layer), reason);
        }
    }
    for (machine, kept) in machines() {
        for pack in &machine.packs {
            let reason = kept.named(&kept.packs, pack, pack.number);
            planned.judge(Item::Pack(machine.machine, *pack), reason);
        }
    }
    for journal in &inventory.journals {
        if let Some(reason) = kept.journal(journal) {
            planned.stays.push(Stays::Journal(journal.journal, reason));
            continue;
        }
        for object in &journal.objects {
            let place = (journal.journal, *object);
            planned.judge(Item::Object(place.0, place.1), first(&kept.objects, &place));
        }
    }
    planned.cut(inventory, deletes_max)
}

/// Judged so far.
#[derive(Debug, Default)]
struct Planned {
    deletes: Vec<Item>,
    stays: Vec<Stays>,
}

impl Planned {
    fn judge(&mut self, item: Item, reason: Option<Reason>) {
        match reason {
            Some(reason) => self.stays.push(Stays::Item(item, reason)),
            None => self.deletes.push(item),
        }
    }

    /// The first so many, each journal's `end` before its first object.
    fn cut(mut self, inventory: &Inventory, deletes_max: usize) -> Plan {
        let left_count = self.deletes.len().saturating_sub(deletes_max);
        self.deletes.truncate(deletes_max);
        let mut without_end: Vec<JournalId> = inventory
            .journals
            .iter()
            .filter(|journal| journal.closing != Closing::Ended)
            .map(|journal| journal.journal)
            .collect();
        without_end.sort_unstable();
        let mut actions = Vec::with_capacity(self.deletes.len());
        let mut last = None;
        for item in self.deletes {
            if let Item::Object(journal, _) = item
                && last.replace(journal) != Some(journal)
                && without_end.binary_search(&journal).is_ok()
            {
                actions.push(Action::CreateEnd(journal));
            }
            actions.push(Action::Delete(item));
        }
        Plan {
            actions,
            stays: self.stays,
            left_count,
        }
    }
}

/// What the newest manifests and the held ones keep, each set sorted.
#[derive(Debug)]
struct Kept<'a> {
    /// In the inventory's order.
    machines: Vec<MachineKept<'a>>,
    /// The same, by machine: its index above.
    by_machine: Vec<(MachineId, usize)>,
    objects: Vec<((JournalId, ObjectNo), Reason)>,
}

#[derive(Debug)]
struct MachineKept<'a> {
    newest: ManifestNo,
    passed: &'a [JournalId],
    held: Vec<HeldManifest<'a>>,
    /// A hold of a manifest that is not known: nothing is known to be free of it.
    held_unread: Option<HoldId>,
    layers: Vec<(RetentionId, Reason)>,
    packs: Vec<(RetentionId, Reason)>,
}

#[derive(Debug)]
struct HeldManifest<'a> {
    number: ManifestNo,
    hold: HoldId,
    links: Option<&'a Links>,
}

impl<'a> Kept<'a> {
    fn of(inventory: &'a Inventory) -> Self {
        let mut holds: Vec<&Hold> = inventory.holds.iter().filter(|hold| hold.stands).collect();
        holds.sort_unstable_by_key(|hold| (hold.machine, hold.hold));
        let mut objects = Vec::new();
        let machines: Vec<_> = inventory
            .machines
            .iter()
            .map(|machine| MachineKept::of(machine, &holds, &mut objects))
            .collect();
        let ids = inventory.machines.iter().map(|machine| machine.machine);
        let mut by_machine: Vec<_> = ids.zip(0..).collect();
        by_machine.sort_unstable();
        sort(&mut objects);
        Self {
            machines,
            by_machine,
            objects,
        }
    }

    /// Why nothing of the journal may be deleted.
    fn journal(&self, journal: &JournalInventory) -> Option<Reason> {
        if journal.closing == Closing::Open {
            return Some(Reason::NotSealed);
        }
        let reasons = journal
            .machines
            .iter()
            .filter_map(|machine| self.not_passed(*machine, journal.journal));
        reasons.min()
    }

    fn not_passed(&self, machine: MachineId, journal: JournalId) -> Option<Reason> {
        let index = self.by_machine.binary_search_by_key(&machine, |had| had.0);
        let Ok(index) = index else {
            return Some(Reason::Behind(machine));
        };
        let kept = &self.machines[self.by_machine[index].1];
        if !has_passed(kept.passed, journal) {
            return Some(Reason::Behind(machine));
        }
        let waits = |held: &&HeldManifest<'_>| {
            held.links
                .is_none_or(|links| !has_passed(&links.passed, journal))
        };
        let waiting = kept.held.iter().filter(waits).map(|held| held.hold);
        waiting.min().map(Reason::Held)
    }
}

impl<'a> MachineKept<'a> {
    fn of(
        machine: &'a MachineInventory,
        holds: &[&Hold],
        objects: &mut Vec<((JournalId, ObjectNo), Reason)>,
    ) -> Self {
        let held = held_manifests(machine, holds);
        let unread = held.iter().filter(|held| held.links.is_none());
        let mut kept = Self {
            newest: machine.newest,
            passed: &machine.links.passed,
            held_unread: unread.map(|held| held.hold).min(),
            layers: Vec::new(),
            packs: Vec::new(),
            held: Vec::new(),
        };
        kept.take(&machine.links, Reason::Linked(machine.machine), objects);
        for held in &held {
            if let Some(links) = held.links {
                kept.take(links, Reason::Held(held.hold), objects);
            }
        }
        kept.held = held;
        sort(&mut kept.layers);
        sort(&mut kept.packs);
        kept
    }

    /// Takes in what a manifest leads to.
    fn take(
        &mut self,
        links: &Links,
        reason: Reason,
        objects: &mut Vec<((JournalId, ObjectNo), Reason)>,
    ) {
        self.packs
            .extend(links.packs.iter().map(|pack| (*pack, reason)));
        for layer in &links.layers {
            self.layers.push((layer.layer, reason));
            self.packs
                .extend(layer.packs.iter().map(|pack| (*pack, reason)));
            objects.extend(layer.objects.iter().map(|place| (*place, reason)));
        }
    }

    /// Why a manifest below the newest stays.
    fn manifest(&self, number: ManifestNo) -> Option<Reason> {
        if self.newest <= number {
            return Some(Reason::NamedAbove(self.newest));
        }
        let index = self.held.binary_search_by_key(&number, |held| held.number);
        index.ok().map(|index| Reason::Held(self.held[index].hold))
    }

    /// Why a layer or pack stays that is named after `number`.
    fn named<K: Ord>(&self, kept: &[(K, Reason)], name: &K, number: ManifestNo) -> Option<Reason> {
        let above = (self.newest < number).then_some(Reason::NamedAbove(self.newest));
        first(kept, name)
            .or(self.held_unread.map(Reason::Held))
            .or(above)
    }
}

impl Hold {
    const fn keeps(&self, manifest: ManifestNo) -> bool {
        match self.keeps {
            Keeps::From(number) => number.0 <= manifest.0,
            Keeps::Only(number) => number.0 == manifest.0,
        }
    }
}

/// The machine's older manifests that a hold keeps, by number; a hold from before the first one keeps every journal.
/// `holds` rise by machine and id.
fn held_manifests<'a>(machine: &'a MachineInventory, holds: &[&Hold]) -> Vec<HeldManifest<'a>> {
    let begin = holds.partition_point(|hold| hold.machine < machine.machine);
    let count = holds[begin..].partition_point(|hold| hold.machine == machine.machine);
    let holds = &holds[begin..begin + count];
    let older = machine.older.iter();
    let older = older.map(|older| (older.number, older.links.as_ref()));
    let all = older.chain([(ManifestNo(0), Some(&NOTHING))]);
    let held = all.filter_map(|(number, links)| {
        let hold = holds.iter().find(|hold| hold.keeps(number))?.hold;
        Some(HeldManifest {
            number,
            hold,
            links,
        })
    });
    let mut held: Vec<_> = held.collect();
    held.sort_unstable_by_key(|held| held.number);
    held
}

fn has_passed(passed: &[JournalId], journal: JournalId) -> bool {
    passed.binary_search(&journal).is_ok()
}

/// One entry a key: its first reason.
fn sort<K: Ord>(kept: &mut Vec<(K, Reason)>) {
    kept.sort_unstable();
    kept.dedup_by(|next, first| next.0 == first.0);
}

fn first<K: Ord>(kept: &[(K, Reason)], key: &K) -> Option<Reason> {
    let index = kept.binary_search_by(|(had, _)| had.cmp(key)).ok()?;
    Some(kept[index].1)
}

impl fmt::Display for HoldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests;
