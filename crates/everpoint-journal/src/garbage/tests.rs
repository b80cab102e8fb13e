//! The plan against the rules' own words, item by item.

use std::collections::BTreeSet;

use everpoint_units::Level;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::subsequence;

use super::*;

const MACHINES: u8 = 3;
const JOURNALS: u8 = 2;
const OBJECTS: u64 = 3;
const NUMBERS: u64 = 4;
/// Of each number, in layers and packs.
const NAMES: u8 = 2;

fn machine(index: u8) -> MachineId {
    MachineId([index; 16])
}

fn journal(index: u8) -> JournalId {
    JournalId {
        level: Level(1),
        random: [index; 16],
    }
}

fn hold(index: u8) -> HoldId {
    HoldId([index; 16])
}

fn layer(number: u64, index: u8) -> RetentionId {
    RetentionId {
        number: ManifestNo(number),
        random: [index; 16],
    }
}

fn pack(number: u64, index: u8) -> RetentionId {
    RetentionId {
        number: ManifestNo(number),
        random: [index; 16],
    }
}

/// Layers of numbers up to one above `NUMBERS`: somebody is at work.
fn layer_names() -> Vec<RetentionId> {
    let numbers = (1..=NUMBERS + 1).flat_map(|number| (0..NAMES).map(move |at| (number, at)));
    numbers.map(|(number, at)| layer(number, at)).collect()
}

fn pack_names() -> Vec<RetentionId> {
    let names = layer_names().into_iter();
    names
        .map(|name| RetentionId {
            number: name.number,
            random: name.random,
        })
        .collect()
}

fn journals() -> Vec<JournalId> {
    (0..JOURNALS).map(journal).collect()
}

fn places() -> Vec<(JournalId, ObjectNo)> {
    let journals = journals().into_iter();
    let places = journals.flat_map(|journal| (1..=OBJECTS).map(move |at| (journal, ObjectNo(at))));
    places.collect()
}

fn some<T: Clone + fmt::Debug + 'static>(of: Vec<T>) -> impl Strategy<Value = Vec<T>> {
    let count = of.len();
    subsequence(of, 0..=count)
}

fn few<T: Clone + fmt::Debug + 'static>(of: Vec<T>) -> impl Strategy<Value = Vec<T>> {
    subsequence(of, 0..=2)
}

prop_compose! {
    fn a_layer()(
        number in 1..=NUMBERS,
        index in 0..NAMES,
        objects in few(places()),
        packs in few(pack_names()),
    ) -> LayerLinks {
        LayerLinks { layer: layer(number, index), objects, packs }
    }
}

prop_compose! {
    fn links()(
        all in any::<bool>(),
        passed in some(journals()),
        layers in vec(a_layer(), 0..=2),
        packs in few(pack_names()),
    ) -> Links {
        // Mostly past all, so that not every journal stays.
        let passed = if all { journals() } else { passed };
        Links { passed, layers, packs }
    }
}

prop_compose! {
    fn a_machine(index: u8)(
        newest in 1..=NUMBERS,
        links in links(),
        older in vec((1..=NUMBERS, proptest::option::weighted(0.8, links())), 0..=3),
        layers in some(layer_names()).prop_shuffle(),
        packs in some(pack_names()).prop_shuffle(),
    ) -> MachineInventory {
        let mut numbers = BTreeSet::from([newest]);
        let older = older.into_iter().filter(|(number, _)| numbers.insert(*number));
        let older = older.map(|(number, links)| OlderManifest { number: ManifestNo(number), links });
        MachineInventory {
            machine: machine(index),
            newest: ManifestNo(newest),
            links,
            older: older.collect(),
            layers,
            packs,
        }
    }
}

prop_compose! {
    fn a_journal(index: u8)(
        closing in prop_oneof![Just(Closing::Open), Just(Closing::Sealed), Just(Closing::Ended)],
        machines in some((0..MACHINES).map(machine).collect()).prop_shuffle(),
        objects in some((1..=OBJECTS).map(ObjectNo).collect()),
    ) -> JournalInventory {
        JournalInventory { journal: journal(index), closing, machines, objects }
    }
}

prop_compose! {
    fn a_hold()(
        index in 0..u8::MAX,
        of in 0..MACHINES,
        number in 0..=NUMBERS,
        only in any::<bool>(),
        stands in any::<bool>(),
    ) -> Hold {
        let number = ManifestNo(number);
        let keeps = if only { Keeps::Only(number) } else { Keeps::From(number) };
        Hold { hold: hold(index), machine: machine(of), keeps, stands }
    }
}

prop_compose! {
    fn inventory()(
        machines in (a_machine(0), a_machine(1), a_machine(2)),
        there in some(vec![0, 1, 2]).prop_shuffle(),
        journals in (a_journal(0), a_journal(1)),
        turned in any::<bool>(),
        holds in vec(a_hold(), 0..=3),
    ) -> Inventory {
        let machines = [machines.0, machines.1, machines.2];
        let mut journals = vec![journals.0, journals.1];
        if turned {
            journals.reverse();
        }
        Inventory {
            machines: there.into_iter().map(|at: usize| machines[at].clone()).collect(),
            journals,
            holds,
        }
    }
}

/// A manifest that somebody may read: what it links, if that is known, and the hold that keeps it.
type Readable = (Option<Links>, Option<HoldId>);

/// Every manifest of the machine that somebody may read.
fn readable(inventory: &Inventory, of: &MachineInventory) -> Vec<Readable> {
    let mut readable = vec![(Some(of.links.clone()), None)];
    for hold in &inventory.holds {
        if hold.machine != of.machine || !hold.stands {
            continue;
        }
        let keeps = |number: ManifestNo| match hold.keeps {
            Keeps::From(from) => from <= number,
            Keeps::Only(only) => only == number,
        };
        if keeps(ManifestNo(0)) {
            readable.push((Some(Links::default()), Some(hold.hold)));
        }
        for older in &of.older {
            if keeps(older.number) {
                readable.push((older.links.clone(), Some(hold.hold)));
            }
        }
    }
    readable
}

/// Whether a reason for an item to stay is true.
fn is_true(inventory: &Inventory, item: Item, reason: Reason) -> bool {
    let of = |id: MachineId| inventory.machines.iter().find(|had| had.machine == id);
    let leads = |links: &Option<Links>, id: MachineId| match (links, item) {
        (_, Item::Manifest(..)) => false,
        (None, Item::Layer(owner, _) | Item::Pack(owner, _)) => owner == id,
        (None, Item::Object(..)) => false,
        (Some(links), Item::Layer(owner, layer)) => {
            owner == id && links.layers.iter().any(|linked| linked.layer == layer)
        }
        (Some(links), Item::Pack(owner, pack)) => {
            let by_layer = links.layers.iter().any(|layer| layer.packs.contains(&pack));
            owner == id && (by_layer || links.packs.contains(&pack))
        }
        (Some(links), Item::Object(journal, object)) => {
            let mut layers = links.layers.iter();
            layers.any(|layer| layer.objects.contains(&(journal, object)))
        }
    };
    match reason {
        Reason::NotSealed | Reason::Behind(_) => false,
        Reason::Linked(id) => of(id).is_some_and(|of| leads(&Some(of.links.clone()), id)),
        Reason::Held(hold) => inventory.machines.iter().any(|of| {
            let is_held =
                |readable: &Readable| readable.1 == Some(hold) && leads(&readable.0, of.machine);
            let held_itself = match item {
                Item::Manifest(owner, number) if owner == of.machine => {
                    number < of.newest
                        && inventory.holds.iter().any(|had| {
                            let keeps = match had.keeps {
                                Keeps::From(from) => from <= number,
                                Keeps::Only(only) => only == number,
                            };
                            had.hold == hold && had.machine == owner && had.stands && keeps
                        })
                }
                _ => false,
            };
            held_itself || readable(inventory, of).iter().any(is_held)
        }),
        Reason::NamedAbove(newest) => match item {
            Item::Manifest(id, number) => {
                of(id).is_some_and(|of| of.newest == newest && newest <= number)
            }
            Item::Layer(id, RetentionId { number, .. })
            | Item::Pack(id, RetentionId { number, .. }) => {
                of(id).is_some_and(|of| of.newest == newest && newest < number)
            }
            Item::Object(..) => false,
        },
    }
}

/// Whether a reason for a whole journal to stay is true.
fn is_true_of_journal(inventory: &Inventory, of: &JournalInventory, reason: Reason) -> bool {
    let named = |id: MachineId| of.machines.contains(&id);
    let owner = |id: MachineId| inventory.machines.iter().find(|had| had.machine == id);
    match reason {
        Reason::NotSealed => of.closing == Closing::Open,
        Reason::Behind(id) => {
            named(id) && owner(id).is_none_or(|had| !had.links.passed.contains(&of.journal))
        }
        Reason::Held(hold) => inventory.machines.iter().any(|had| {
            let waits = |(links, by): &Readable| {
                let passed = |links: &Links| links.passed.contains(&of.journal);
                *by == Some(hold) && !links.as_ref().is_some_and(passed)
            };
            named(had.machine) && readable(inventory, had).iter().any(waits)
        }),
        Reason::Linked(_) | Reason::NamedAbove(_) => false,
    }
}

/// Every reason that there could be.
fn reasons(inventory: &Inventory) -> Vec<Reason> {
    let mut reasons = vec![Reason::NotSealed];
    for index in 0..MACHINES {
        reasons.extend([
            Reason::Behind(machine(index)),
            Reason::Linked(machine(index)),
        ]);
    }
    reasons.extend(inventory.holds.iter().map(|hold| Reason::Held(hold.hold)));
    reasons.extend((1..=NUMBERS).map(|number| Reason::NamedAbove(ManifestNo(number))));
    reasons
}

fn items(inventory: &Inventory) -> Vec<Item> {
    let mut items = Vec::new();
    for of in &inventory.machines {
        let numbers = of.older.iter().map(|older| older.number);
        items.extend(numbers.map(|number| Item::Manifest(of.machine, number)));
        items.extend(of.layers.iter().map(|name| Item::Layer(of.machine, *name)));
        items.extend(of.packs.iter().map(|name| Item::Pack(of.machine, *name)));
    }
    for of in &inventory.journals {
        let objects = of.objects.iter();
        items.extend(objects.map(|object| Item::Object(of.journal, *object)));
    }
    items
}

/// By the rules, one item after the other: slow and obvious.
fn deletable(inventory: &Inventory) -> BTreeSet<Item> {
    let reasons = reasons(inventory);
    let may = |item: &Item| {
        let of_journal = |journal: JournalId| {
            let mut journals = inventory.journals.iter();
            journals.find(|had| had.journal == journal).unwrap()
        };
        let journal_stays = match item {
            Item::Object(journal, _) => reasons
                .iter()
                .any(|reason| is_true_of_journal(inventory, of_journal(*journal), *reason)),
            _ => false,
        };
        let stays = |reason: &Reason| is_true(inventory, *item, *reason);
        !journal_stays && !reasons.iter().any(stays)
    };
    items(inventory).into_iter().filter(may).collect()
}

fn deletes(plan: &Plan) -> Vec<Item> {
    let deletes = plan.actions.iter().filter_map(|action| match action {
        Action::Delete(item) => Some(*item),
        Action::CreateEnd(_) => None,
    });
    deletes.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn what_is_deleted_is_what_the_rules_let_go_item_by_item(inventory in inventory()) {
        let plan = plan(&inventory, usize::MAX);
        let deleted = deletes(&plan);
        prop_assert_eq!(plan.left_count, 0);
        let distinct: BTreeSet<_> = deleted.iter().copied().collect();
        prop_assert_eq!(distinct.len(), deleted.len(), "each once");
        prop_assert_eq!(distinct, deletable(&inventory));
    }

    #[test]
    fn whatever_stays_has_one_reason_and_it_is_true(inventory in inventory()) {
        let plan = plan(&inventory, usize::MAX);
        let mut told: Vec<Item> = deletes(&plan);
        for stays in &plan.stays {
            match *stays {
                Stays::Item(item, reason) => {
                    prop_assert!(is_true(&inventory, item, reason), "{:?}: {}", item, reason);
                    told.push(item);
                }
                Stays::Journal(journal, reason) => {
                    let of = inventory.journals.iter().find(|had| had.journal == journal);
                    let of = of.unwrap();
                    let is_true = is_true_of_journal(&inventory, of, reason);
                    prop_assert!(is_true, "{}: {}", journal, reason);
                    told.extend(of.objects.iter().map(|object| Item::Object(journal, *object)));
                }
            }
        }
        told.sort_unstable();
        let mut all = items(&inventory);
        all.sort_unstable();
        prop_assert_eq!(told, all);
    }

    #[test]
    fn a_plan_that_is_cut_is_the_beginning_of_the_whole_one(
        inventory in inventory(),
        deletes_max in 0_usize..12,
    ) {
        let whole = plan(&inventory, usize::MAX);
        let cut = plan(&inventory, deletes_max);
        prop_assert!(whole.actions.starts_with(&cut.actions));
        prop_assert_eq!(&whole.stays, &cut.stays);
        let count = deletes(&whole).len();
        prop_assert_eq!(deletes(&cut).len(), count.min(deletes_max));
        prop_assert_eq!(cut.left_count, count.saturating_sub(deletes_max));
        let ends_with_end = matches!(cut.actions.last(), Some(Action::CreateEnd(_)));
        prop_assert!(!ends_with_end, "no `end` without a deletion");
    }

    #[test]
    fn end_comes_before_the_first_object_and_whatever_refers_before_what_it_refers_to(
        inventory in inventory(),
    ) {
        let plan = plan(&inventory, usize::MAX);
        let mut has_end: BTreeSet<JournalId> = BTreeSet::new();
        for journal in &inventory.journals {
            if journal.closing == Closing::Ended {
                has_end.insert(journal.journal);
            }
        }
        let mut rank = 0;
        for action in &plan.actions {
            let this = match action {
                Action::CreateEnd(journal) => {
                    prop_assert!(has_end.insert(*journal), "created once, where there is none");
                    3
                }
                Action::Delete(Item::Manifest(..)) => 0,
                Action::Delete(Item::Layer(..)) => 1,
                Action::Delete(Item::Pack(..)) => 2,
                Action::Delete(Item::Object(journal, _)) => {
                    prop_assert!(has_end.contains(journal));
                    3
                }
            };
            prop_assert!(rank <= this);
            rank = this;
        }
    }
}

/// One machine at manifest 3, past journal 0, with one layer that has a place in its second object.
fn pruned() -> Inventory {
    let links = |number, objects: &[u64], packs: &[RetentionId]| Links {
        passed: vec![journal(0)],
        layers: vec![LayerLinks {
            layer: layer(number, 0),
            objects: objects
                .iter()
                .map(|at| (journal(0), ObjectNo(*at)))
                .collect(),
            packs: packs.to_vec(),
        }],
        packs: Vec::new(),
    };
    Inventory {
        machines: vec![MachineInventory {
            machine: machine(0),
            newest: ManifestNo(3),
            links: links(3, &[2], &[]),
            older: vec![
                OlderManifest {
                    number: ManifestNo(1),
                    links: None,
                },
                OlderManifest {
                    number: ManifestNo(2),
                    links: Some(links(2, &[2, 3], &[pack(2, 0)])),
                },
            ],
            layers: vec![layer(1, 0), layer(2, 0), layer(3, 0), layer(4, 0)],
            packs: vec![pack(2, 0)],
        }],
        journals: vec![JournalInventory {
            journal: journal(0),
            closing: Closing::Sealed,
            machines: vec![machine(0)],
            objects: vec![ObjectNo(1), ObjectNo(2), ObjectNo(3)],
        }],
        holds: Vec::new(),
    }
}

fn holding(keeps: Keeps) -> Inventory {
    let hold = Hold {
        hold: hold(9),
        machine: machine(0),
        keeps,
        stands: true,
    };
    Inventory {
        holds: vec![hold],
        ..pruned()
    }
}

#[test]
fn what_the_newest_manifest_does_not_lead_to_goes_old_manifests_first() {
    let plan = plan(&pruned(), usize::MAX);
    let of = machine(0);
    let deletes = [
        Item::Manifest(of, ManifestNo(1)),
        Item::Manifest(of, ManifestNo(2)),
        Item::Layer(of, layer(1, 0)),
        Item::Layer(of, layer(2, 0)),
        Item::Pack(of, pack(2, 0)),
    ];
    let mut actions: Vec<_> = deletes.map(Action::Delete).into();
    actions.push(Action::CreateEnd(journal(0)));
    let objects = [1, 3].map(|at| Action::Delete(Item::Object(journal(0), ObjectNo(at))));
    actions.extend(objects);
    assert_eq!(plan.actions, actions);
    let stays = [
        Stays::Item(Item::Layer(of, layer(3, 0)), Reason::Linked(of)),
        Stays::Item(
            Item::Layer(of, layer(4, 0)),
            Reason::NamedAbove(ManifestNo(3)),
        ),
        Stays::Item(Item::Object(journal(0), ObjectNo(2)), Reason::Linked(of)),
    ];
    assert_eq!(plan.stays, stays);
}

#[test]
fn a_hold_keeps_its_manifest_and_what_that_leads_to() {
    let of = machine(0);
    for keeps in [Keeps::Only(ManifestNo(2)), Keeps::From(ManifestNo(2))] {
        let deleted = deletes(&plan(&holding(keeps), usize::MAX));
        let expected = [
            Item::Manifest(of, ManifestNo(1)),
            Item::Layer(of, layer(1, 0)),
            Item::Object(journal(0), ObjectNo(1)),
        ];
        assert_eq!(deleted, expected, "{keeps:?}");
    }
}

#[test]
fn a_hold_that_ended_or_lapsed_keeps_nothing() {
    let mut inventory = holding(Keeps::From(ManifestNo(0)));
    inventory.holds[0].stands = false;
    assert_eq!(plan(&inventory, usize::MAX), plan(&pruned(), usize::MAX));
}

#[test]
fn a_held_manifest_that_was_not_read_keeps_all_but_what_is_named_in_older_manifests_alone() {
    let inventory = holding(Keeps::Only(ManifestNo(1)));
    let plan = plan(&inventory, usize::MAX);
    assert_eq!(deletes(&plan), [Item::Manifest(machine(0), ManifestNo(2))]);
    let journal_stays = Stays::Journal(journal(0), Reason::Held(hold(9)));
    assert!(plan.stays.contains(&journal_stays), "{plan:?}");
}

#[test]
fn a_hold_from_before_the_first_manifest_keeps_every_journal_of_its_machine() {
    let mut inventory = holding(Keeps::Only(ManifestNo(0)));
    let plan_of = |inventory: &Inventory| plan(inventory, usize::MAX);
    let journal_stays = Stays::Journal(journal(0), Reason::Held(hold(9)));
    assert!(plan_of(&inventory).stays.contains(&journal_stays));
    inventory.holds[0].machine = machine(1);
    assert!(!plan_of(&inventory).stays.contains(&journal_stays));
}

#[test]
fn one_machine_that_is_behind_keeps_the_journal_for_all() {
    let mut inventory = pruned();
    inventory.journals[0].machines.push(machine(1));
    let plan_of = |inventory: &Inventory| plan(inventory, usize::MAX);
    let behind = Stays::Journal(journal(0), Reason::Behind(machine(1)));
    assert!(plan_of(&inventory).stays.contains(&behind), "no manifest");
    inventory.machines.push(MachineInventory {
        machine: machine(1),
        newest: ManifestNo(1),
        links: Links::default(),
        older: Vec::new(),
        layers: Vec::new(),
        packs: Vec::new(),
    });
    assert!(plan_of(&inventory).stays.contains(&behind), "not passed");
    inventory.machines[1].links.passed.push(journal(0));
    assert!(!plan_of(&inventory).stays.contains(&behind));
}

#[test]
fn a_report_can_say_why() {
    let said = [
        Reason::NotSealed,
        Reason::Behind(machine(1)),
        Reason::Held(hold(2)),
        Reason::NamedAbove(ManifestNo(7)),
    ]
    .map(|reason| reason.to_string());
    assert_eq!(said[0], "the journal is not sealed");
    assert!(said[1].contains(&machine(1).to_string()));
    assert!(said[2].contains("hold 02020202"));
    assert!(said[3].contains("manifest 7"));
}
