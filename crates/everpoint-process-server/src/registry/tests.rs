//! One slot a machine, whoever waits for it and whatever fails.

use super::*;

const MACHINE: MachineId = MachineId([1; 16]);
const OTHER: MachineId = MachineId([2; 16]);

fn slot(registry: &Registry, machine: MachineId) -> Arc<Slot> {
    registry.slot(machine, 1).expect("there is a place")
}

#[test]
fn a_slot_that_somebody_waits_for_outlasts_a_load_that_failed() {
    let registry = Registry::default();
    let failed = slot(&registry, MACHINE);
    let waits = slot(&registry, MACHINE);
    registry.forget(MACHINE, &failed);
    drop(failed);
    let asked_later = slot(&registry, MACHINE);
    assert!(Arc::ptr_eq(&waits, &asked_later), "there is one slot");
    drop(asked_later);
    registry.forget(MACHINE, &waits);
    slot(&registry, OTHER);
}

#[test]
fn who_failed_in_a_slot_that_is_gone_takes_no_other_with_it() {
    let registry = Registry::default();
    let gone = slot(&registry, MACHINE);
    registry.forget(MACHINE, &gone);
    let new = slot(&registry, MACHINE);
    registry.forget(MACHINE, &gone);
    assert!(Arc::ptr_eq(&new, &slot(&registry, MACHINE)));
    assert!(registry.slot(OTHER, 1).is_err(), "its place is taken");
}
