//! The handshake's bytes, and what is made of bad ones.

use everpoint_units::ByteLen;

use super::*;
use crate::BlockSizes;
use crate::protocol::{INFO_BLOCK_SIZE, INFO_NAME, OPTION_LEN_MAX, REP_ACK};

#[test]
fn the_greeting_is_the_one_that_the_specification_prints() {
    assert_eq!(&encode_greeting(), b"NBDMAGICIHAVEOPT\x00\x03");
    assert_eq!(parse_greeting(&encode_greeting()), Ok(true));
    assert_eq!(parse_greeting(b"NBDMAGICIHAVEOPT\x00\x01"), Ok(false));
}

#[test]
fn a_server_of_the_old_kind_or_none_at_all_is_told_apart() {
    assert_eq!(
        parse_greeting(b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\x00\x03"),
        Err(GreetingError::NotFixedNewstyle)
    );
    assert_eq!(
        parse_greeting(b"NBDMAGICIHAVEOPT\x00\x00"),
        Err(GreetingError::NotFixedNewstyle)
    );
    assert!(matches!(
        parse_greeting(b"SSH-2.0-OpenSSH_9."),
        Err(GreetingError::NotNbd { .. })
    ));
}

#[test]
fn a_client_flag_that_was_never_offered_ends_the_session() {
    let flags = |no_zeroes| ClientFlags {
        fixed_newstyle: true,
        no_zeroes,
    };
    assert_eq!(parse_client_flags([0, 0, 0, 1]), Ok(flags(false)));
    assert_eq!(
        parse_client_flags(encode_client_flags(true)),
        Ok(flags(true))
    );
    assert!(parse_client_flags([0, 0, 0, 5]).is_err());
    assert!(parse_client_flags([0x80, 0, 0, 3]).is_err());
}

#[test]
fn an_option_is_laid_out_as_the_table_says() {
    let mut out = Vec::new();
    push_option(&mut out, OPT_LIST, b"");
    assert_eq!(out, b"IHAVEOPT\x00\x00\x00\x03\x00\x00\x00\x00");
    assert_eq!(
        parse_option_header(out.first_chunk().unwrap()),
        Ok(OptionHeader {
            option: OPT_LIST,
            len: 0
        })
    );
    out[3] ^= 1;
    assert!(parse_option_header(out.first_chunk().unwrap()).is_err());
}

#[test]
fn a_reply_to_an_option_is_laid_out_as_the_table_says() {
    let mut out = Vec::new();
    push_option_reply(&mut out, OPT_LIST, REP_ACK, b"");
    assert_eq!(
        out,
        [
            0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0
        ]
    );
    let header: [u8; 20] = out.try_into().unwrap();
    assert_eq!(
        parse_option_reply(&header),
        Ok(OptionReply {
            option: OPT_LIST,
            reply: REP_ACK,
            len: 0
        })
    );
    let mut long = header;
    long[16..].copy_from_slice(&(OPTION_LEN_MAX + 1).to_be_bytes());
    assert!(matches!(
        parse_option_reply(&long),
        Err(OptionReplyError::TooLong { .. })
    ));
}

#[test]
fn a_question_about_an_export_reads_back() {
    let data = ExportQuery::encode("disk", &[INFO_NAME, INFO_BLOCK_SIZE]);
    assert_eq!(data, b"\x00\x00\x00\x04disk\x00\x02\x00\x01\x00\x03");
    let Ok(ClientOption::Go(query)) = parse_option(OPT_GO, &data) else {
        panic!("a good option");
    };
    assert_eq!(query.name, "disk");
    assert!(query.asks(INFO_NAME) && query.asks(INFO_BLOCK_SIZE));
    assert!(!query.asks(0) && !query.asks(0x0100), "no byte order mixed");
}

#[test]
fn a_question_about_an_export_is_exactly_as_long_as_it_says() {
    let good = ExportQuery::encode("disk", &[INFO_NAME]);
    for len in 0..good.len() {
        assert_eq!(
            parse_option(OPT_INFO, &good[..len]),
            Err(OptionError::Truncated),
            "{len}"
        );
    }
    for extra in 1..4 {
        let mut long = good.clone();
        long.resize(good.len() + extra, 0);
        assert!(
            matches!(
                parse_option(OPT_INFO, &long),
                Err(OptionError::TooMuch { .. })
            ),
            "{extra}"
        );
    }
}

#[test]
fn context_queries_read_back_in_order() {
    let data = ContextQuery::encode("disk", &["base:", "qemu:dirty-bitmap:b0", ""]);
    let Ok(ClientOption::SetMetaContext(query)) = parse_option(OPT_SET_META_CONTEXT, &data) else {
        panic!("a good option");
    };
    assert_eq!((query.name, query.count), ("disk", 3));
    let queries: Vec<_> = query.queries().collect();
    assert_eq!(queries, ["base:", "qemu:dirty-bitmap:b0", ""]);
}

#[test]
fn a_count_of_queries_that_lies_costs_nothing() {
    let mut data = ContextQuery::encode("disk", &["base:"]);
    data[8..12].fill(0xff);
    assert_eq!(
        parse_option(OPT_LIST_META_CONTEXT, &data),
        Err(OptionError::Truncated)
    );
}

#[test]
fn names_are_bounded_utf_8_without_nul() {
    let longest = "x".repeat(NAME_LEN_MAX);
    assert_eq!(
        parse_option(OPT_EXPORT_NAME, longest.as_bytes()),
        Ok(ClientOption::ExportName(&longest))
    );
    assert_eq!(
        parse_option(OPT_EXPORT_NAME, &[b'x'; NAME_LEN_MAX + 1]),
        Err(OptionError::TextTooLong {
            len: NAME_LEN_MAX + 1
        })
    );
    for bad in [&b"\xff"[..], b"a\0b", b"\xed\xa0\x80"] {
        assert_eq!(
            parse_option(OPT_EXPORT_NAME, bad),
            Err(OptionError::NotText)
        );
    }
}

#[test]
fn options_without_content_refuse_some_but_an_abort_ignores_it() {
    for option in [OPT_LIST, OPT_STARTTLS, OPT_STRUCTURED_REPLY] {
        assert_eq!(
            parse_option(option, b"x"),
            Err(OptionError::TooMuch { len: 1 })
        );
    }
    assert_eq!(parse_option(OPT_ABORT, b"bye"), Ok(ClientOption::Abort));
    assert_eq!(parse_option(4_711, b"?"), Ok(ClientOption::Unknown));
}

#[test]
fn information_reads_back_and_bad_lengths_are_refused() {
    assert_eq!(
        parse_info(b"\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x05"),
        Ok(Info::Export {
            size: ByteLen(1 << 20),
            flags: 5
        })
    );
    assert_eq!(
        parse_info(b"\x00\x03\x00\x00\x02\x00\x00\x00\x10\x00\x02\x00\x00\x00"),
        Ok(Info::Blocks(BlockSizes::SECTORS))
    );
    assert_eq!(parse_info(b"\x00\x01disk"), Ok(Info::Name("disk")));
    assert_eq!(parse_info(b"\x00\x63disk"), Ok(Info::Unknown));
    for bad in [
        &b""[..],
        b"\x00",
        b"\x00\x00\x00",
        b"\x00\x00\xff\x00\x00\x00\x00\x10\x00\x00\x00\x05",
        b"\x00\x03\x00\x00\x02\x01\x00\x00\x10\x00\x02\x00\x00\x00",
        b"\x00\x03\x00\x00\x02\x00",
        b"\x00\x02\xff",
    ] {
        assert!(parse_info(bad).is_err(), "{bad:?}");
    }
}
