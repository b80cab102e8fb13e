//! What one blob does, without HTTP and with a clock that is set by hand.

use super::*;
use crate::rigs::page_blobs::conditions::SequenceOrder;
use crate::rigs::page_blobs::pages::Change;

const SECOND: Duration = Duration::from_secs(1);
const A: &str = "aaaaaaaa-0000-4000-8000-000000000000";

/// A clock, and a blob of 1 MiB.
struct Rig {
    moment: Moment,
    place: Option<Blob>,
}

impl Rig {
    fn new() -> Self {
        let moment = Moment {
            instant: Instant::now(),
            time: SystemTime::now(),
            ticks: 1,
        };
        let mut rig = Self {
            moment,
            place: None,
        };
        rig.put(&Conditions::default()).unwrap();
        rig
    }

    fn pass(&mut self, time: Duration) -> Moment {
        self.moment.ticks += 1;
        self.moment.instant += time;
        self.moment.time += time;
        self.moment
    }

    fn blob(&mut self) -> &mut Blob {
        self.place.as_mut().unwrap()
    }

    fn put(&mut self, conditions: &Conditions) -> Result<(), Refusal> {
        let moment = self.pass(SECOND);
        let content = Content::Pages(Pages::new(1 << 20));
        let version = Version::new(content, Traits::default(), &moment);
        Blob::put(&mut self.place, version, conditions, &moment)
    }

    fn write(&mut self, start: u64, byte: u8, conditions: &Conditions) -> Result<(), Refusal> {
        let moment = self.pass(SECOND);
        let write = PageWrite {
            kind: WriteKind::Put,
            extent: start..start + 512,
            pieces: &[Bytes::from(vec![byte; 512])],
        };
        self.blob().write_pages(&write, conditions, &moment)
    }

    fn snapshot(&mut self) -> String {
        let moment = self.pass(SECOND);
        let none = Conditions::default();
        let id = self.blob().snapshot(Metadata::new(), &none, &moment);
        id.unwrap()
    }

    fn sequence(&mut self, action: SequenceAction) -> Result<u64, Refusal> {
        let moment = self.pass(SECOND);
        let none = Conditions::default();
        let blob = self.blob();
        blob.set_properties(None, Some(action), None, &none, &moment)?;
        Ok(blob.current.sequence_number)
    }
}

fn sequence(order: SequenceOrder, number: u64) -> Conditions {
    Conditions {
        sequence: vec![SequenceCondition { order, number }],
        ..Conditions::default()
    }
}

fn lease(id: &str) -> Conditions {
    Conditions {
        lease: Some(id.to_owned()),
        ..Conditions::default()
    }
}

#[test]
fn a_sequence_number_keeps_out_what_is_older() {
    let mut rig = Rig::new();
    assert_eq!(rig.sequence(SequenceAction::Max(8)), Ok(8));
    assert_eq!(rig.sequence(SequenceAction::Max(7)), Ok(8));
    let outcomes = [
        (SequenceOrder::Equal, 7, false),
        (SequenceOrder::Equal, 8, true),
        (SequenceOrder::Equal, 9, false),
        (SequenceOrder::AtMost, 7, false),
        (SequenceOrder::AtMost, 8, true),
        (SequenceOrder::Below, 8, false),
        (SequenceOrder::Below, 9, true),
    ];
    for (order, number, is_done) in outcomes {
        let expected = match is_done {
            true => Ok(()),
            false => Err(Refusal::SEQUENCE_CONDITION_NOT_MET),
        };
        let done = rig.write(0, 1, &sequence(order, number));
        assert_eq!(done, expected, "{order:?} {number}");
    }
}

#[test]
fn a_sequence_number_is_set_counted_up_and_never_overflows() {
    let mut rig = Rig::new();
    assert_eq!(rig.sequence(SequenceAction::Increment), Ok(1));
    assert_eq!(rig.sequence(SequenceAction::Update(5)), Ok(5));
    assert_eq!(rig.sequence(SequenceAction::Update(3)), Ok(3));
    let max = SequenceAction::Update(SEQUENCE_NUMBER_MAX);
    assert_eq!(rig.sequence(max), Ok(SEQUENCE_NUMBER_MAX));
    let refused = rig.sequence(SequenceAction::Increment);
    assert_eq!(refused, Err(Refusal::SEQUENCE_NUMBER_TOO_LARGE));
}

#[test]
fn a_lease_that_expired_is_lost_to_who_wrote_meanwhile() {
    let mut rig = Rig::new();
    let moment = rig.pass(SECOND);
    let acquire = LeaseAction::Acquire {
        proposed: Some(A.to_owned()),
        duration: Some(15 * SECOND),
    };
    let none = Conditions::default();
    let held = rig.blob().lease(acquire, || unreachable!(), &none, &moment);
    assert_eq!(held, Ok(LeaseDone::Held(A.to_owned())));
    assert_eq!(rig.write(0, 1, &none), Err(Refusal::LEASE_ID_MISSING));
    assert_eq!(rig.write(0, 1, &lease(A)), Ok(()));
    rig.pass(15 * SECOND);
    assert_eq!(rig.write(0, 2, &lease(A)), Err(Refusal::LEASE_LOST));
    assert_eq!(rig.write(0, 3, &none), Ok(()));
    let moment = rig.pass(SECOND);
    let renew = LeaseAction::Renew { id: A.to_owned() };
    let refused = rig.blob().lease(renew, || unreachable!(), &none, &moment);
    assert_eq!(
        refused,
        Err(Refusal::LEASE_ID_MISMATCH_WITH_LEASE_OPERATION)
    );
}

#[test]
fn a_blob_that_took_the_place_of_another_has_no_difference_to_its_snapshots() {
    let mut rig = Rig::new();
    let first = rig.snapshot();
    rig.write(0, 1, &Conditions::default()).unwrap();
    let second = rig.snapshot();
    assert!(rig.blob().since(&first, None).is_ok());
    assert!(rig.blob().since(&first, Some(&second)).is_ok());
    let newer = rig.blob().since(&second, Some(&first)).unwrap_err();
    assert_eq!(newer, Refusal::SNAPSHOT_CANNOT_BE_NEWER);
    let unknown = rig.blob().since("2000", None).unwrap_err();
    assert_eq!(unknown, Refusal::PREVIOUS_SNAPSHOT_NOT_FOUND);
    rig.put(&Conditions::default()).unwrap();
    let blob = rig.blob();
    assert_eq!(
        blob.since(&first, None).unwrap_err(),
        Refusal::BLOB_OVERWRITTEN
    );
    assert!(blob.since(&first, Some(&second)).is_ok());
}

#[test]
fn a_snapshot_keeps_everything_as_it_was() {
    let mut rig = Rig::new();
    rig.write(0, 1, &Conditions::default()).unwrap();
    rig.sequence(SequenceAction::Update(4)).unwrap();
    let id = rig.snapshot();
    let before = rig.blob().current.clone();
    rig.write(512, 2, &Conditions::default()).unwrap();
    rig.sequence(SequenceAction::Update(9)).unwrap();
    let blob = rig.blob();
    let kept = &blob.snapshots[&id];
    assert_eq!(kept.sequence_number, 4);
    assert_eq!(kept.etag, before.etag);
    let (now, then) = (blob.current.pages().unwrap(), kept.pages().unwrap());
    assert_eq!(then.read(0..1024), [[1; 512], [0; 512]].concat());
    assert_eq!(
        now.changed(then, 0..1 << 20),
        [(512..1024, Change::Written)]
    );
}

#[test]
fn a_blob_with_snapshots_is_deleted_only_with_them() {
    let mut rig = Rig::new();
    let id = rig.snapshot();
    let other = rig.snapshot();
    let none = Conditions::default();
    let moment = rig.pass(SECOND);
    let mut delete = |snapshot, snapshots| {
        let gone = Blob::delete(&mut rig.place, snapshot, snapshots, &none, &moment);
        gone.map(|()| rig.place.as_ref().map(|blob| blob.snapshots.len()))
    };
    assert_eq!(delete(None, None), Err(Refusal::SNAPSHOTS_PRESENT));
    assert_eq!(delete(Some(&id), None), Ok(Some(1)));
    assert_eq!(delete(Some(&id), None), Err(Refusal::BLOB_NOT_FOUND));
    assert_eq!(delete(None, Some(DeleteSnapshots::Only)), Ok(Some(0)));
    assert_eq!(delete(Some(&other), None), Err(Refusal::BLOB_NOT_FOUND));
    assert_eq!(delete(None, None), Ok(None));
    assert_eq!(delete(None, None), Err(Refusal::BLOB_NOT_FOUND));
}

/// A copy that takes ten seconds, over a blob that has something.
fn copying() -> Rig {
    let mut rig = Rig::new();
    let mut source = Pages::new(1 << 20);
    source.write(0, &[Bytes::from(vec![7; 512])]);
    let moment = rig.pass(SECOND);
    let mut version = Version::new(Content::Pages(source), Traits::default(), &moment);
    version.copy = Some(CopyRecord {
        id: "one".to_owned(),
        source: String::new(),
        status: CopyStatus::Pending,
        len: 1 << 20,
        ended: None,
    });
    let none = Conditions::default();
    Blob::copy(&mut rig.place, version, 10 * SECOND, &none, &moment).unwrap();
    rig
}

#[test]
fn a_copy_that_is_pending_admits_no_write_and_shows_nothing_until_it_ends() {
    let mut rig = copying();
    let moment = rig.pass(8 * SECOND);
    rig.blob().settle(&moment);
    assert_eq!(rig.blob().current.pages().unwrap(), &Pages::new(1 << 20));
    let none = Conditions::default();
    assert_eq!(rig.write(0, 1, &none), Err(Refusal::PENDING_COPY));
    let moment = rig.pass(SECOND);
    rig.blob().settle(&moment);
    let current = &rig.blob().current;
    assert_eq!(current.copy.as_ref().unwrap().status, CopyStatus::Success);
    assert_eq!(current.pages().unwrap().read(0..1), [7]);
    assert_eq!(rig.write(0, 1, &none), Ok(()));
}

#[test]
fn a_copy_that_is_aborted_leaves_an_empty_blob() {
    let mut rig = copying();
    let moment = rig.pass(SECOND);
    let none = Conditions::default();
    let other = rig.blob().abort_copy("two", &none, &moment);
    assert_eq!(other, Err(Refusal::COPY_ID_MISMATCH));
    assert_eq!(rig.blob().abort_copy("one", &none, &moment), Ok(()));
    assert_eq!(rig.blob().current.content.len(), 0);
    let copy = rig.blob().current.copy.clone();
    assert_eq!(copy.unwrap().status, CopyStatus::Aborted);
    let again = rig.blob().abort_copy("one", &none, &moment);
    assert_eq!(again, Err(Refusal::NO_PENDING_COPY));
    let moment = rig.pass(10 * SECOND);
    rig.blob().settle(&moment);
    assert_eq!(rig.blob().current.content.len(), 0);
}
