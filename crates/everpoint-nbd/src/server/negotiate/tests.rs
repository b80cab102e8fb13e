//! The handshake, byte by byte, as clients of several kinds lead it.

use std::sync::Arc;

use everpoint_units::ByteLen;
use tokio::io::DuplexStream;

use super::*;
use crate::handshake::{GREETING_LEN, Info, parse_info, parse_option_reply, push_option};
use crate::protocol::{
    FLAG_CAN_MULTI_CONN, FLAG_SEND_DF, NAME_LEN_MAX, OPT_ABORT, OPT_EXPORT_NAME, OPT_INFO,
    OPT_LIST, OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OPT_STARTTLS, OPT_STRUCTURED_REPLY,
    OPTION_REPLY_HEADER_LEN, PAYLOAD_LEN_MAX,
};
use crate::{BlockSizes, MemoryExport};

const SIZE: u64 = 64 << 20;

/// A registry with these exports.
fn registry(names: &[&str]) -> Registry {
    let registry = Registry::default();
    for name in names {
        let mut info = ExportInfo::disk(ByteLen(SIZE));
        info.description = format!("about {name:.9}");
        let export = Arc::new(MemoryExport::with_info(info));
        assert!(registry.add(name, export, 100).is_ok());
    }
    registry
}

/// Sends `bytes` after the greeting, and returns what came back and how it ended.
async fn talk(registry: &Registry, flags: u32, bytes: &[u8]) -> Talk {
    let (mut wire, mut stream) = tokio::io::duplex(1 << 20);
    wire.write_all(&flags.to_be_bytes()).await.unwrap();
    wire.write_all(bytes).await.unwrap();
    wire.shutdown().await.unwrap();
    let end = negotiate(&mut stream, registry, PAYLOAD_LEN_MAX).await;
    drop(stream);
    let mut greeting = [0; GREETING_LEN];
    wire.read_exact(&mut greeting).await.unwrap();
    assert_eq!(greeting, encode_greeting());
    Talk { wire, end }
}

struct Talk {
    wire: DuplexStream,
    end: Result<Agreed, HandshakeEnd>,
}

impl Talk {
    async fn reply(&mut self) -> (u32, u32, Vec<u8>) {
        let mut header = [0; OPTION_REPLY_HEADER_LEN];
        self.wire.read_exact(&mut header).await.expect("a reply");
        let header = parse_option_reply(&header).unwrap();
        let mut data = vec![0; header.len as usize];
        self.wire.read_exact(&mut data).await.unwrap();
        (header.option, header.reply, data)
    }

    async fn expect(&mut self, option: u32, reply: u32) -> Vec<u8> {
        let (answered, replied, data) = self.reply().await;
        assert_eq!((answered, replied), (option, reply), "{data:?}");
        data
    }

    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.wire.read_to_end(&mut rest).await.unwrap();
        rest
    }
}

fn options(options: &[(u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (option, data) in options {
        push_option(&mut out, *option, data);
    }
    out
}

#[tokio::test]
async fn go_tells_size_flags_and_blocks_and_ends_the_handshake() {
    let registry = registry(&["disk"]);
    let query = ExportQuery::encode("disk", &[INFO_NAME, INFO_DESCRIPTION]);
    let mut talk = talk(&registry, 3, &options(&[(OPT_GO, &query)])).await;
    let mut facts = Vec::new();
    loop {
        let (option, reply, data) = talk.reply().await;
        assert_eq!(option, OPT_GO);
        if reply == REP_ACK {
            break;
        }
        assert_eq!(reply, REP_INFO);
        facts.push(data);
    }
    let facts: Vec<_> = facts.iter().map(|data| parse_info(data).unwrap()).collect();
    let flags = ExportInfo::disk(ByteLen(SIZE)).transmission_flags(false);
    assert_eq!(flags & FLAG_SEND_DF, 0);
    assert_ne!(flags & FLAG_CAN_MULTI_CONN, 0);
    assert_eq!(
        facts,
        [
            Info::Export {
                size: ByteLen(SIZE),
                flags
            },
            Info::Name("disk"),
            Info::Description("about disk"),
            Info::Blocks(BlockSizes::SECTORS),
        ]
    );
    let agreed = talk.end.unwrap();
    assert_eq!(agreed.name, "disk");
    assert!(!agreed.terms.structured && !agreed.terms.allocation);
}

#[tokio::test]
async fn info_leaves_the_handshake_open() {
    let registry = registry(&["disk"]);
    let query = ExportQuery::encode("disk", &[]);
    let bytes = options(&[(OPT_INFO, &query), (OPT_ABORT, b"")]);
    let mut talk = talk(&registry, 3, &bytes).await;
    talk.expect(OPT_INFO, REP_INFO).await;
    talk.expect(OPT_INFO, REP_INFO).await;
    talk.expect(OPT_INFO, REP_ACK).await;
    talk.expect(OPT_ABORT, REP_ACK).await;
    assert!(matches!(talk.end, Err(HandshakeEnd::Left)));
}

#[tokio::test]
async fn the_old_way_gives_size_flags_and_zeroes_unless_they_were_declined() {
    for (client_flags, zeroes) in [(3, 0), (1, 124), (0, 124), (2, 0)] {
        let registry = registry(&["disk"]);
        let bytes = options(&[(OPT_EXPORT_NAME, b"disk")]);
        let mut talk = talk(&registry, client_flags, &bytes).await;
        let rest = talk.rest().await;
        assert_eq!(rest.len(), 10 + zeroes, "{client_flags}");
        assert_eq!(rest[..8], SIZE.to_be_bytes());
        let flags = ExportInfo::disk(ByteLen(SIZE)).transmission_flags(false);
        assert_eq!(rest[8..10], flags.to_be_bytes());
        assert!(rest[10..].iter().all(|b| *b == 0));
        assert!(talk.end.is_ok());
    }
}

#[tokio::test]
async fn the_old_way_to_nowhere_ends_the_connection() {
    let registry = registry(&["disk"]);
    let bytes = options(&[(OPT_EXPORT_NAME, b"other")]);
    let mut talk = talk(&registry, 3, &bytes).await;
    assert!(matches!(talk.end, Err(HandshakeEnd::UnknownExport)));
    assert!(talk.rest().await.is_empty());
}

#[tokio::test]
async fn an_unknown_export_is_told_and_another_can_be_tried() {
    let registry = registry(&["a", "b"]);
    let bytes = options(&[
        (OPT_GO, &ExportQuery::encode("c", &[])),
        (OPT_GO, &ExportQuery::encode("b", &[])),
    ]);
    let mut talk = talk(&registry, 3, &bytes).await;
    talk.expect(OPT_GO, REP_ERR_UNKNOWN).await;
    assert_eq!(talk.end.unwrap().name, "b");
}

#[tokio::test]
async fn the_empty_name_is_the_only_export_and_none_of_several() {
    let query = ExportQuery::encode("", &[INFO_NAME]);
    let bytes = options(&[(OPT_GO, &query)]);
    let mut one = talk(&registry(&["disk"]), 3, &bytes).await;
    one.expect(OPT_GO, REP_INFO).await;
    let name = one.expect(OPT_GO, REP_INFO).await;
    assert_eq!(parse_info(&name), Ok(Info::Name("disk")));
    assert_eq!(one.end.unwrap().name, "disk");
    let mut two = talk(&registry(&["a", "b"]), 3, &bytes).await;
    two.expect(OPT_GO, REP_ERR_UNKNOWN).await;
    let named = talk(&registry(&["", "b"]), 3, &bytes).await;
    assert_eq!(named.end.unwrap().name, "");
    let mut none = talk(&registry(&[]), 3, &bytes).await;
    none.expect(OPT_GO, REP_ERR_UNKNOWN).await;
}

#[tokio::test]
async fn a_list_names_every_export_with_its_description() {
    let registry = registry(&["b", "a"]);
    let mut talk = talk(&registry, 3, &options(&[(OPT_LIST, b"")])).await;
    for name in ["a", "b"] {
        let data = talk.expect(OPT_LIST, REP_SERVER).await;
        let text = format!("about {name}");
        assert_eq!(data[..5], *encode_text(name));
        assert_eq!(data[5..], *text.as_bytes());
    }
    talk.expect(OPT_LIST, REP_ACK).await;
}

#[tokio::test]
async fn encryption_is_refused_by_policy_and_the_handshake_goes_on() {
    let registry = registry(&["disk"]);
    let bytes = options(&[
        (OPT_STARTTLS, b""),
        (4_711, b"what"),
        (OPT_LIST, b"x"),
        (OPT_GO, &ExportQuery::encode("disk", &[])),
    ]);
    let mut talk = talk(&registry, 3, &bytes).await;
    talk.expect(OPT_STARTTLS, REP_ERR_POLICY).await;
    talk.expect(4_711, REP_ERR_UNSUP).await;
    talk.expect(OPT_LIST, REP_ERR_INVALID).await;
    assert!(talk.end.is_ok());
}

#[tokio::test]
async fn allocation_is_agreed_on_for_the_export_for_which_it_was_selected() {
    let registry = registry(&["a", "b"]);
    let select = |name| ContextQuery::encode(name, &["x-other:thing", "base:allocation"]);
    for (selected, used, agreed) in [("a", "a", true), ("a", "b", false)] {
        let bytes = options(&[
            (OPT_STRUCTURED_REPLY, b""),
            (OPT_SET_META_CONTEXT, &select(selected)),
            (OPT_GO, &ExportQuery::encode(used, &[])),
        ]);
        let mut talk = talk(&registry, 3, &bytes).await;
        talk.expect(OPT_STRUCTURED_REPLY, REP_ACK).await;
        let context = talk.expect(OPT_SET_META_CONTEXT, REP_META_CONTEXT).await;
        assert_eq!(context, b"\x00\x00\x00\x01base:allocation");
        talk.expect(OPT_SET_META_CONTEXT, REP_ACK).await;
        let terms = talk.end.unwrap().terms;
        assert_eq!((terms.structured, terms.allocation), (true, agreed));
    }
}

#[tokio::test]
async fn a_later_selection_replaces_an_earlier_one_also_when_it_fails() {
    let registry = registry(&["a", "b"]);
    for second in [
        ContextQuery::encode("a", &[]),
        ContextQuery::encode("a", &["base:"]),
        ContextQuery::encode("nowhere", &["base:allocation"]),
    ] {
        let bytes = options(&[
            (OPT_STRUCTURED_REPLY, b""),
            (
                OPT_SET_META_CONTEXT,
                &ContextQuery::encode("a", &["base:allocation"]),
            ),
            (OPT_SET_META_CONTEXT, &second),
            (OPT_GO, &ExportQuery::encode("a", &[])),
        ]);
        let talk = talk(&registry, 3, &bytes).await;
        assert!(!talk.end.unwrap().terms.allocation);
    }
}

#[tokio::test]
async fn contexts_are_listed_by_wildcard_and_selected_only_with_structured_replies() {
    let registry = registry(&["a"]);
    let bytes = options(&[
        (OPT_LIST_META_CONTEXT, &ContextQuery::encode("a", &[])),
        (
            OPT_LIST_META_CONTEXT,
            &ContextQuery::encode("a", &["base:"]),
        ),
        (
            OPT_LIST_META_CONTEXT,
            &ContextQuery::encode("a", &["qemu:"]),
        ),
        (OPT_LIST_META_CONTEXT, &ContextQuery::encode("b", &[])),
        (
            OPT_SET_META_CONTEXT,
            &ContextQuery::encode("a", &["base:allocation"]),
        ),
    ]);
    let mut talk = talk(&registry, 3, &bytes).await;
    for _ in 0..2 {
        let context = talk.expect(OPT_LIST_META_CONTEXT, REP_META_CONTEXT).await;
        assert_eq!(context[4..], *b"base:allocation");
        talk.expect(OPT_LIST_META_CONTEXT, REP_ACK).await;
    }
    talk.expect(OPT_LIST_META_CONTEXT, REP_ACK).await;
    talk.expect(OPT_LIST_META_CONTEXT, REP_ERR_UNKNOWN).await;
    talk.expect(OPT_SET_META_CONTEXT, REP_ERR_INVALID).await;
}

#[tokio::test]
async fn an_option_that_is_too_long_is_told_so_and_nothing_is_read_of_it() {
    let registry = registry(&["disk"]);
    let mut bytes = options(&[(OPT_GO, b"")]);
    bytes[12..16].copy_from_slice(&(OPTION_LEN_MAX + 1).to_be_bytes());
    let mut talk = talk(&registry, 3, &bytes).await;
    talk.expect(OPT_GO, REP_ERR_TOO_BIG).await;
    assert!(matches!(
        talk.end,
        Err(HandshakeEnd::OptionTooLong { len }) if len == OPTION_LEN_MAX + 1
    ));
}

#[tokio::test]
async fn the_longest_name_is_looked_up_and_a_longer_one_is_invalid() {
    let longest = "n".repeat(NAME_LEN_MAX);
    let registry = registry(&[&longest]);
    let bytes = options(&[
        (
            OPT_GO,
            &ExportQuery::encode(&"n".repeat(NAME_LEN_MAX + 1), &[]),
        ),
        (OPT_GO, &ExportQuery::encode(&longest, &[])),
    ]);
    let mut talk = talk(&registry, 3, &bytes).await;
    talk.expect(OPT_GO, REP_ERR_INVALID).await;
    assert_eq!(talk.end.unwrap().name, longest);
}

#[tokio::test]
async fn garbage_instead_of_flags_or_options_ends_the_handshake() {
    let registry = registry(&["disk"]);
    let flags = talk(&registry, 0xffff_ffff, b"").await;
    assert!(matches!(flags.end, Err(HandshakeEnd::Garbage(_))));
    let option = talk(&registry, 3, b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(matches!(option.end, Err(HandshakeEnd::Garbage(_))));
    let old = talk(&registry, 0, &options(&[(OPT_LIST, b"")])).await;
    assert!(matches!(old.end, Err(HandshakeEnd::NotFixedNewstyle)));
    let cut = talk(&registry, 3, b"IHAVE").await;
    assert!(matches!(cut.end, Err(HandshakeEnd::Left)));
}

#[tokio::test]
async fn options_without_end_end() {
    let registry = registry(&["disk"]);
    let mut bytes = Vec::new();
    for _ in 0..OPTION_COUNT_MAX {
        push_option(&mut bytes, OPT_STRUCTURED_REPLY, b"");
    }
    let talk = talk(&registry, 3, &bytes).await;
    assert!(matches!(talk.end, Err(HandshakeEnd::TooManyOptions)));
}

#[tokio::test]
async fn an_export_that_turns_unservable_is_refused_and_the_limit_of_payloads_is_told() {
    let mut info = ExportInfo::disk(ByteLen(SIZE));
    let registry = Registry::default();
    assert!(
        registry
            .add("good", Arc::new(MemoryExport::with_info(info.clone())), 9)
            .is_ok()
    );
    info.size = ByteLen(100);
    assert!(
        registry
            .add("bad", Arc::new(MemoryExport::with_info(info)), 9)
            .is_ok()
    );
    let bytes = options(&[
        (OPT_GO, &ExportQuery::encode("bad", &[])),
        (OPT_GO, &ExportQuery::encode("good", &[])),
    ]);
    let (mut wire, mut stream) = tokio::io::duplex(1 << 20);
    wire.write_all(&[0, 0, 0, 3]).await.unwrap();
    wire.write_all(&bytes).await.unwrap();
    let agreed = negotiate(&mut stream, &registry, 1 << 20).await.unwrap();
    assert_eq!(agreed.name, "good");
    assert_eq!(agreed.terms.info.blocks.payload_max(), 1 << 20);
}
