//! Whatever bytes come, the parsers answer; and what is encoded reads back.

use everpoint_nbd::handshake::{
    ClientOption, ContextQuery, ExportQuery, parse_client_flags, parse_greeting, parse_info,
    parse_option, parse_option_header, parse_option_reply,
};
use everpoint_nbd::protocol::{NAME_LEN_MAX, OPTION_LEN_MAX};
use everpoint_nbd::reply::{
    ReplyHeader, parse_error, parse_hole, parse_reply, parse_status, push_error, push_status,
};
use everpoint_nbd::request::{Operation, Request, Terms, encode_request, parse_request};
use everpoint_nbd::{Allocation, BlockSizes, Errno, ExportInfo, NbdAddress, ZeroSupport};
use everpoint_units::ByteLen;
use proptest::prelude::*;

fn terms() -> impl Strategy<Value = Terms> {
    let zeroes = prop_oneof![
        Just(ZeroSupport::None),
        Just(ZeroSupport::Plain),
        Just(ZeroSupport::Fast)
    ];
    let blocks = prop_oneof![Just(BlockSizes::SECTORS), Just(BlockSizes::PAGES)];
    (any::<[bool; 6]>(), zeroes, blocks, 0..1_u64 << 40).prop_map(|(set, zeroes, blocks, size)| {
        let size = ByteLen(size / 4_096 * 4_096);
        Terms {
            info: ExportInfo {
                read_only: set[0],
                trim: set[1],
                zeroes,
                blocks,
                ..ExportInfo::disk(size)
            },
            structured: set[2],
            allocation: set[3],
            flush: set[4],
            fua: set[5],
        }
    })
}

fn request() -> impl Strategy<Value = Request> {
    let near = prop_oneof![any::<u64>(), (0..1_u64 << 31).prop_map(|n| n * 512)];
    let len = prop_oneof![any::<u32>(), (0..1_u32 << 17).prop_map(|n| n * 512)];
    (0..32_u16, 0..10_u16, any::<u64>(), near, len).prop_map(
        |(flags, command, cookie, offset, len)| Request {
            flags,
            command,
            cookie,
            offset,
            len,
        },
    )
}

proptest! {
    #[test]
    fn any_header_of_a_request_is_read_or_refused(bytes: [u8; 28]) {
        if let Ok(request) = parse_request(&bytes) {
            prop_assert_eq!(encode_request(&request), bytes);
        }
    }

    #[test]
    fn a_request_reads_back(request in request()) {
        prop_assert_eq!(parse_request(&encode_request(&request)), Ok(request));
    }

    #[test]
    fn what_is_admitted_lies_inside_the_export_and_is_bounded(terms in terms(), request in request()) {
        let Ok(operation) = terms.admit(&request) else {
            return Ok(());
        };
        let (at, len) = match operation {
            Operation::Read { at, len, .. }
            | Operation::Write { at, len, .. }
            | Operation::Trim { at, len, .. }
            | Operation::WriteZeroes { at, len, .. }
            | Operation::BlockStatus { at, len, .. } => (at.0, len),
            Operation::Flush | Operation::Disconnect => return Ok(()),
        };
        let min = terms.info.blocks.min();
        prop_assert!(len > 0 && len % min == 0 && at % u64::from(min) == 0);
        prop_assert!(at.checked_add(u64::from(len)).unwrap() <= terms.info.size.0);
        prop_assert!(operation.payload_len() <= terms.info.blocks.payload_max());
        let changes = !matches!(operation, Operation::Read { .. } | Operation::BlockStatus { .. });
        prop_assert!(!changes || !terms.info.read_only);
    }

    #[test]
    fn any_option_is_read_or_refused_and_its_texts_are_bounded(
        option in 0..12_u32,
        bytes in prop::collection::vec(any::<u8>(), 0..512),
    ) {
        match parse_option(option, &bytes) {
            Ok(ClientOption::ExportName(name)) => prop_assert!(name.len() <= NAME_LEN_MAX),
            Ok(ClientOption::Info(query) | ClientOption::Go(query)) => {
                prop_assert!(query.name.len() <= NAME_LEN_MAX);
            }
            Ok(ClientOption::ListMetaContext(query) | ClientOption::SetMetaContext(query)) => {
                prop_assert_eq!(query.queries().count(), query.count as usize);
            }
            _ => {}
        }
    }

    #[test]
    fn queries_read_back(
        name in "[^\u{0}]{0,40}",
        infos in prop::collection::vec(any::<u16>(), 0..20),
        texts in prop::collection::vec("[^\u{0}]{0,40}", 0..20),
    ) {
        let data = ExportQuery::encode(&name, &infos);
        let Ok(ClientOption::Go(query)) = parse_option(7, &data) else {
            panic!("a good option");
        };
        prop_assert_eq!(query.name, &name);
        prop_assert!(infos.iter().all(|info| query.asks(*info)));

        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let data = ContextQuery::encode(&name, &texts);
        let Ok(ClientOption::SetMetaContext(query)) = parse_option(10, &data) else {
            panic!("a good option");
        };
        prop_assert_eq!(query.queries().collect::<Vec<_>>(), texts);
    }

    #[test]
    fn cutting_an_option_short_is_never_taken_for_whole(cut in 0..100_usize) {
        let data = ContextQuery::encode("disk", &["base:allocation", "x-y:z"]);
        let cut = cut % data.len();
        prop_assert!(parse_option(10, &data[..cut]).is_err());
    }

    #[test]
    fn any_bytes_of_a_server_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(Some(ReplyHeader::Chunk { len, .. })) = parse_reply(&bytes) {
            prop_assert!(len > 0 || bytes.len() >= 20);
        }
        let _ = (parse_error(&bytes), parse_info(&bytes));
        if let Ok((_, extents)) = parse_status(&bytes) {
            prop_assert_eq!(bytes.len(), 4 + 8 * extents.len());
        }
        if let Some(bytes) = bytes.first_chunk() {
            let _ = parse_hole(bytes);
        }
        if let Some(bytes) = bytes.first_chunk() {
            let _ = (parse_greeting(bytes), bytes.first_chunk().map(|b| parse_client_flags(*b)));
        }
        if let Some(bytes) = bytes.first_chunk() {
            let _ = parse_option_header(bytes);
        }
        if let Some(Ok(reply)) = bytes.first_chunk().map(parse_option_reply) {
            prop_assert!(reply.len <= OPTION_LEN_MAX);
        }
    }

    #[test]
    fn extents_and_errors_read_back(
        extents in prop::collection::vec((1..u32::MAX, any::<bool>(), any::<bool>()), 1..100),
        context: u32,
        text in ".{0,100}",
    ) {
        let extents: Vec<_> = extents
            .into_iter()
            .map(|(len, hole, zero)| Allocation { len, hole, zero })
            .collect();
        let mut out = Vec::new();
        push_status(&mut out, 1, context, &extents);
        let header = parse_reply(&out).unwrap().unwrap();
        let last = matches!(header, ReplyHeader::Chunk { done: true, .. });
        prop_assert!(last);
        prop_assert_eq!(parse_status(&out[20..]), Ok((context, extents)));
        out.clear();
        push_error(&mut out, 1, Errno::NoSpace, &text);
        prop_assert_eq!(parse_error(&out[20..]), Ok(Errno::NoSpace));
    }

    #[test]
    fn any_text_is_an_address_or_none(text in ".{0,60}") {
        if let Ok(address) = text.parse::<NbdAddress>() {
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }
    }

    #[test]
    fn an_address_reads_back(name in "[^\u{0}]{0,40}", path in "[^\u{0}]{1,40}", port in 1..u16::MAX) {
        let unix = NbdAddress::unix(path, name.clone());
        prop_assert_eq!(unix.to_string().parse(), Ok(unix));
        let tcp = NbdAddress::tcp("::1", port, name);
        prop_assert_eq!(tcp.to_string().parse(), Ok(tcp));
    }
}
