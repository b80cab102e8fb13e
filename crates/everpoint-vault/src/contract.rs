//! What every vault must do, whatever store it lies on.
//!
//! Memory and file run this in every test run, plain and with faults that heal; so do Azure and S3, on servers that
//! stand in for them. A behaviour that callers rely on and that is not checked here does not exist. What a directory must do
//! beyond it (syncs, roots that move, crashes) is tested beside the file backend.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use bytes::Bytes;
use everpoint_units::{ByteLen, ByteOffset};
use futures::future::join_all;

use crate::{
    CreateError, ObjectEntry, ObjectName, ObjectPrefix, Payload, ReadError, Remedy, Suffix, Vault,
};

/// Creators that want one name at the same time.
const CREATORS: u8 = 16;

/// Length of the large object. Unit: bytes.
const LARGE_LEN: usize = 32 << 20;

/// Pieces of the large object.
const LARGE_PIECES: usize = 700;

/// Runs the whole contract below a fresh prefix, `v1/contract/<random>`, and leaves its objects there.
///
/// # Panics
///
/// At the first clause that does not hold.
pub async fn check(vault: &Vault) {
    let run = format!("v1/contract/{:016x}", rand::random::<u64>());
    let run = ObjectPrefix::new(&run).expect("hexadecimal digits make a segment");
    let clause = |name: &str| run.child(name).expect("a segment");
    what_was_never_created_is_absent(vault, &clause("absent")).await;
    what_was_created_is_read_and_listed(vault, &clause("read")).await;
    the_same_bytes_are_created_as_often_as_asked(vault, &clause("same")).await;
    other_bytes_never_replace_what_is_there(vault, &clause("other")).await;
    of_many_creators_exactly_one_wins(vault, &clause("race")).await;
    of_many_creators_with_the_same_bytes_all_win(vault, &clause("agree")).await;
    ranges_lie_inside_the_object(vault, &clause("range")).await;
    a_suffix_is_the_end_or_the_whole(vault, &clause("suffix")).await;
    an_empty_object_is_an_object(vault, &clause("empty")).await;
    a_large_object_in_many_pieces_comes_back_whole(vault, &clause("large")).await;
    numbers_are_listed_in_order(vault, &clause("numbers")).await;
    pages_together_are_the_listing(vault, &clause("pages")).await;
    prefixes_are_listed_by_segment(vault, &clause("prefixes")).await;
    what_is_too_long_is_our_bug(vault, &clause("long")).await;
}

async fn what_was_never_created_is_absent(vault: &Vault, prefix: &ObjectPrefix) {
    let name = object(prefix, "a");
    let at = ByteOffset(0);
    assert_eq!(vault.read(&name).await.expect("an answer"), None);
    assert_eq!(vault.head(&name).await.expect("an answer"), None);
    assert_eq!(
        vault
            .read_range(&name, at, ByteLen(1))
            .await
            .expect("an answer"),
        None
    );
    assert_eq!(
        vault
            .read_suffix(&name, ByteLen(1))
            .await
            .expect("an answer"),
        None
    );
    assert!(!vault.forget_cached(&name).await.expect("an answer"));
    assert!(names(vault, prefix).await.is_empty());
    assert!(
        vault
            .list_prefixes(prefix)
            .await
            .expect("an answer")
            .is_empty()
    );
}

async fn what_was_created_is_read_and_listed(vault: &Vault, prefix: &ObjectPrefix) {
    for leaf in ["b", "a", "c"] {
        let name = object(prefix, leaf);
        let created = create(vault, &name, leaf.as_bytes())
            .await
            .expect("a fresh name");
        assert_eq!(created.name(), &name);
        assert_eq!(read(vault, &name).await, leaf.as_bytes());
        assert_eq!(
            vault.head(&name).await.expect("an answer"),
            Some(ByteLen(1))
        );
        assert!(
            names(vault, prefix).await.contains(&name.to_string()),
            "listed at once"
        );
        assert!(vault.forget_cached(&name).await.expect("an answer"));
        assert_eq!(
            read(vault, &name).await,
            leaf.as_bytes(),
            "also from the medium"
        );
    }
}

async fn the_same_bytes_are_created_as_often_as_asked(vault: &Vault, prefix: &ObjectPrefix) {
    let name = object(prefix, "a");
    for _ in 0..3 {
        let created = create(vault, &name, b"the same")
            .await
            .expect("the same bytes");
        assert_eq!(created.name(), &name);
    }
    let again = create(vault, &name, b"the same")
        .await
        .expect("the same bytes");
    assert!(again.was_there());
    assert_eq!(read(vault, &name).await, b"the same");
}

async fn other_bytes_never_replace_what_is_there(vault: &Vault, prefix: &ObjectPrefix) {
    let name = object(prefix, "a");
    create(vault, &name, b"first").await.expect("a fresh name");
    for other in [&b"FIRST"[..], b"firs", b"first1", b""] {
        let refused = create(vault, &name, other)
            .await
            .expect_err("the name is taken");
        assert!(
            matches!(refused, CreateError::Different { .. }),
            "{refused:?}"
        );
        assert_eq!(refused.remedy(), Remedy::StandDown);
        assert_eq!(read(vault, &name).await, b"first");
    }
}

async fn of_many_creators_exactly_one_wins(vault: &Vault, prefix: &ObjectPrefix) {
    for (leaf, len) in [("small", 9), ("medium", 200_000)] {
        let name = object(prefix, leaf);
        let outcomes = race(vault, &name, |creator| vec![creator; len]).await;
        let winners: Vec<_> = (0..CREATORS)
            .zip(&outcomes)
            .filter(|(_, outcome)| outcome.is_ok())
            .map(|(creator, _)| creator)
            .collect();
        let [winner] = winners[..] else {
            panic!("{winners:?} all created {name}");
        };
        for refused in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            assert!(
                matches!(refused, CreateError::Different { .. }),
                "{refused:?}"
            );
        }
        assert_eq!(read(vault, &name).await, vec![winner; len]);
    }
}

async fn of_many_creators_with_the_same_bytes_all_win(vault: &Vault, prefix: &ObjectPrefix) {
    let name = object(prefix, "a");
    for outcome in race(vault, &name, |_| vec![7; 200_000]).await {
        assert_eq!(outcome.expect("the same bytes").name(), &name);
    }
    assert_eq!(names(vault, prefix).await, [name.to_string()]);
}

async fn ranges_lie_inside_the_object(vault: &Vault, prefix: &ObjectPrefix) {
    let name = object(prefix, "a");
    create(vault, &name, b"0123456789")
        .await
        .expect("a fresh name");
    for (at, len, expected) in [
        (0, 10, &b"0123456789"[..]),
        (3, 4, b"3456"),
        (9, 1, b"9"),
        (4, 0, b""),
        (10, 0, b""),
    ] {
        let range = vault.read_range(&name, ByteOffset(at), ByteLen(len)).await;
        assert_eq!(
            range.expect("inside").expect("exists"),
            expected,
            "{at}+{len}"
        );
    }
    for (at, len) in [
        (9, 2),
        (10, 1),
        (11, 0),
        (0, 11),
        (u64::MAX, 1),
        (1, u64::MAX),
    ] {
        let range = vault.read_range(&name, ByteOffset(at), ByteLen(len)).await;
        let refused = range.expect_err("passes the end");
        assert!(
            matches!(
                refused,
                ReadError::OutOfRange {
                    len: ByteLen(10),
                    ..
                }
            ),
            "{at}+{len}: {refused:?}"
        );
    }
}

async fn a_suffix_is_the_end_or_the_whole(vault: &Vault, prefix: &ObjectPrefix) {
    let name = object(prefix, "a");
    create(vault, &name, b"0123456789")
        .await
        .expect("a fresh name");
    for (len, expected) in [
        (3, &b"789"[..]),
        (10, b"0123456789"),
        (99, b"0123456789"),
        (0, b""),
    ] {
        let suffix = vault
            .read_suffix(&name, ByteLen(len))
            .await
            .expect("an answer");
        let expected = Suffix {
            bytes: Bytes::copy_from_slice(expected),
            object_len: ByteLen(10),
        };
        assert_eq!(suffix, Some(expected), "{len}");
    }
}

async fn an_empty_object_is_an_object(vault: &Vault, prefix: &ObjectPrefix) {
    let name = object(prefix, "a");
    create(vault, &name, b"").await.expect("a fresh name");
    assert_eq!(
        vault.head(&name).await.expect("an answer"),
        Some(ByteLen(0))
    );
    assert_eq!(read(vault, &name).await, b"");
    let suffix = vault
        .read_suffix(&name, ByteLen(5))
        .await
        .expect("an answer")
        .expect("exists");
    assert_eq!(
        (&suffix.bytes[..], suffix.object_len),
        (&b""[..], ByteLen(0))
    );
    assert!(
        create(vault, &name, b"")
            .await
            .expect("the same bytes")
            .was_there()
    );
    assert!(create(vault, &name, b"x").await.is_err());
    assert_eq!(names(vault, prefix).await, [name.to_string()]);
}

async fn a_large_object_in_many_pieces_comes_back_whole(vault: &Vault, prefix: &ObjectPrefix) {
    let name = object(prefix, "a");
    let mut state = 1_u64;
    let bytes = std::iter::repeat_with(|| {
        // Xorshift, after Marsaglia: no two neighbourhoods alike.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let bytes: Bytes = bytes.take(LARGE_LEN / 8).flatten().collect();
    let piece_len = LARGE_LEN.div_ceil(LARGE_PIECES);
    let pieces: Vec<_> = (0..LARGE_PIECES)
        .map(|piece| bytes.slice(piece * piece_len..LARGE_LEN.min((piece + 1) * piece_len)))
        .collect();
    let payload = Payload::new(pieces);
    assert_eq!(payload.len(), ByteLen(LARGE_LEN as u64));
    vault.create(&name, &payload).await.expect("a fresh name");
    assert!(
        vault
            .create(&name, &payload)
            .await
            .expect("the same bytes")
            .was_there()
    );
    assert!(vault.read(&name).await.expect("an answer").expect("exists") == bytes);
    let (at, len) = (LARGE_LEN / 3, 1_000_000);
    let range = vault
        .read_range(&name, ByteOffset(at as u64), ByteLen(len as u64))
        .await;
    assert!(range.expect("inside").expect("exists") == bytes[at..at + len]);
}

async fn numbers_are_listed_in_order(vault: &Vault, prefix: &ObjectPrefix) {
    let numbers = [11, 2, u64::MAX, 1, 100, 10, 999_999_999_999];
    for number in numbers {
        let name = object(prefix, &format!("{number:020}"));
        create(vault, &name, &number.to_le_bytes())
            .await
            .expect("a fresh name");
    }
    create(vault, &object(prefix, "end"), b"seal")
        .await
        .expect("a fresh name");
    let mut expected: Vec<_> = BTreeSet::from(numbers)
        .iter()
        .map(|number| format!("{prefix}/{number:020}"))
        .collect();
    expected.push(format!("{prefix}/end"));
    assert_eq!(names(vault, prefix).await, expected);
    let page = vault.list(prefix, None).await.expect("an answer");
    assert!(
        page.objects
            .iter()
            .rev()
            .skip(1)
            .all(|entry| entry.len == ByteLen(8))
    );
}

async fn pages_together_are_the_listing(vault: &Vault, prefix: &ObjectPrefix) {
    // A slash sorts after '-' and '.' and before all else: the order of names is not that of directories.
    let mut expected = BTreeSet::new();
    for leaf in [
        "a", "a-b", "a.b", "ab", "b", "c/1", "c/2", "c-d/1", "c.d/1", "cd", "c0/x/y", "d",
    ] {
        let name = ObjectName::new(&format!("{prefix}/{leaf}")).expect("a name");
        create(vault, &name, leaf.as_bytes())
            .await
            .expect("a fresh name");
        expected.insert(name);
    }
    let expected: Vec<_> = expected.into_iter().collect();
    for count_max in 1..=expected.len() + 1 {
        let pages = pages(vault, prefix, count_max).await;
        let objects: Vec<_> = pages.concat().into_iter().map(|entry| entry.name).collect();
        assert_eq!(objects, expected, "{count_max} a page");
        assert_eq!(
            pages.len(),
            expected.len().div_ceil(count_max),
            "{count_max} a page"
        );
    }
    // What a page begins after need not exist.
    let after = object(prefix, "bb");
    let page = vault.list(prefix, Some(&after)).await.expect("an answer");
    let names: Vec<_> = page.objects.into_iter().map(|entry| entry.name).collect();
    let later: Vec<_> = expected.into_iter().filter(|name| after < *name).collect();
    assert_eq!(names, later);
}

async fn prefixes_are_listed_by_segment(vault: &Vault, prefix: &ObjectPrefix) {
    for leaf in ["2-b/1", "10-a/1", "2-b/2", "2-b/deep/1", "leaf", "2-b.end"] {
        let name = ObjectName::new(&format!("{prefix}/{leaf}")).expect("a name");
        create(vault, &name, b"x").await.expect("a fresh name");
    }
    let expected: Vec<_> = ["10-a", "2-b"]
        .map(|leaf| prefix.child(leaf).expect("a segment"))
        .into();
    assert_eq!(
        vault.list_prefixes(prefix).await.expect("an answer"),
        expected
    );
    let inside = names(vault, &expected[1]).await;
    assert_eq!(inside.len(), 3, "a prefix is whole segments: {inside:?}");
    let leaf = prefix.child("leaf").expect("a segment");
    assert!(
        names(vault, &leaf).await.is_empty(),
        "an object is not below itself"
    );
}

async fn what_is_too_long_is_our_bug(vault: &Vault, prefix: &ObjectPrefix) {
    let max = vault.config().object_len_max();
    // One byte, again and again: the length counts, not the memory.
    let piece = Bytes::from(vec![0; 1 << 20]);
    let count = usize::try_from(max.0 >> 20).expect("fits") + 1;
    let payload = Payload::new(vec![piece; count]);
    let refused = vault.create(&object(prefix, "a"), &payload).await;
    assert_eq!(
        refused.expect_err("over the limit").remedy(),
        Remedy::Report
    );
    assert!(names(vault, prefix).await.is_empty());
}

/// All creators at once, each with its own bytes, on as many threads as the runtime has.
async fn race(
    vault: &Vault,
    name: &ObjectName,
    bytes: impl Fn(u8) -> Vec<u8>,
) -> Vec<Result<crate::Created, CreateError>> {
    let creators = (0..CREATORS).map(|creator| {
        let (vault, name) = (vault.clone(), name.clone());
        let payload = Payload::from(bytes(creator));
        tokio::spawn(async move { vault.create(&name, &payload).await })
    });
    let outcomes = join_all(creators).await;
    outcomes
        .into_iter()
        .map(|outcome| outcome.expect("creators do not panic"))
        .collect()
}

async fn create(
    vault: &Vault,
    name: &ObjectName,
    bytes: &[u8],
) -> Result<crate::Created, CreateError> {
    vault.create(name, &Payload::from(bytes.to_vec())).await
}

async fn read(vault: &Vault, name: &ObjectName) -> Vec<u8> {
    vault
        .read(name)
        .await
        .expect("an answer")
        .expect("exists")
        .into()
}

async fn names(vault: &Vault, prefix: &ObjectPrefix) -> Vec<String> {
    let listing = vault.list_to_end(prefix, None).await.expect("an answer");
    listing
        .objects
        .into_iter()
        .map(|entry| entry.name.to_string())
        .collect()
}

async fn pages(vault: &Vault, prefix: &ObjectPrefix, count_max: usize) -> Vec<Vec<ObjectEntry>> {
    let count_max = NonZeroUsize::new(count_max).expect("pages are not empty");
    let mut pages: Vec<Vec<ObjectEntry>> = Vec::new();
    loop {
        let last = pages.last().and_then(|page| page.last());
        let after = last.map(|last| last.name.clone());
        let page = vault.list_page(prefix, after.as_ref(), count_max).await;
        let page = page.expect("an answer");
        assert!(page.objects.len() <= count_max.get());
        let first = page.objects.first().map(|first| &first.name);
        assert!(
            after.as_ref() < first || page.is_last,
            "a page goes on after the last one"
        );
        pages.push(page.objects);
        if page.is_last {
            return pages;
        }
    }
}

fn object(prefix: &ObjectPrefix, leaf: &str) -> ObjectName {
    prefix.object(leaf).expect("a name")
}

#[cfg(test)]
mod tests;
