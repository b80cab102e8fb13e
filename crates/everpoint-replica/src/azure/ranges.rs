//! Lists of page ranges as the service writes them.
//!
//! ```xml
//! <PageList>
//!   <PageRange><Start>0</Start><End>511</End></PageRange>
//!   <ClearRange><Start>512</Start><End>1023</End></ClearRange>
//!   <NextMarker>…</NextMarker>
//! </PageList>
//! ```
//!
//! Source: Azure REST reference, "Get Page Ranges". `End` is the last byte.

use everpoint_units::{ByteLen, ByteOffset, SECTOR_LEN};
use quick_xml::Reader;
use quick_xml::events::Event;

use crate::target::PageRange;

const LIST: &[u8] = b"PageList";

/// One page of a list.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct RangePage {
    pub(super) ranges: Vec<PageRange>,
    /// Where the next page begins, if there is one.
    pub(super) next: Option<String>,
}

/// Reads a page; `None` for what is none.
pub(super) fn parse(xml: &[u8]) -> Option<RangePage> {
    let mut reader = Reader::from_reader(xml);
    let mut page = RangePage::default();
    let (mut is_whole, mut is_clear) = (false, false);
    let (mut text, mut start, mut end) = (String::new(), None, None);
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) => {
                text.clear();
                if matches!(tag.name().as_ref(), b"PageRange" | b"ClearRange") {
                    is_clear = tag.name().as_ref() == b"ClearRange";
                    (start, end) = (None, None);
                }
            }
            Event::Empty(tag) => is_whole |= tag.name().as_ref() == LIST,
            Event::Text(part) => text.push_str(&part.decode().ok()?),
            Event::End(tag) => match tag.name().as_ref() {
                b"Start" => start = Some(text.trim().parse::<u64>().ok()?),
                b"End" => end = Some(text.trim().parse::<u64>().ok()?),
                b"NextMarker" if !text.trim().is_empty() => {
                    page.next = Some(text.trim().to_owned());
                }
                b"PageRange" | b"ClearRange" => {
                    page.ranges.push(range(start?, end?, is_clear)?);
                }
                LIST => is_whole = true,
                _ => {}
            },
            Event::Eof => return is_whole.then_some(page),
            _ => {}
        }
    }
}

fn range(start: u64, end: u64, is_clear: bool) -> Option<PageRange> {
    let len = end.checked_add(1)?.checked_sub(start)?;
    let whole = start.is_multiple_of(SECTOR_LEN) && len.is_multiple_of(SECTOR_LEN);
    (whole && 0 < len).then_some(PageRange {
        at: ByteOffset(start),
        len: ByteLen(len),
        is_clear,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_cleared_ranges_are_told_apart() {
        let xml = b"\xef\xbb\xbf<?xml version=\"1.0\" encoding=\"utf-8\"?><PageList>\
            <PageRange><Start>0</Start><End>511</End></PageRange>\
            <ClearRange><Start>1024</Start><End>4095</End></ClearRange>\
            <NextMarker>2!abc</NextMarker></PageList>";
        let page = parse(xml).unwrap();
        let range = |at, len, is_clear| PageRange {
            at: ByteOffset(at),
            len: ByteLen(len),
            is_clear,
        };
        assert_eq!(
            page.ranges,
            [range(0, 512, false), range(1_024, 3_072, true)]
        );
        assert_eq!(page.next.as_deref(), Some("2!abc"));
    }

    #[test]
    fn an_empty_list_is_one() {
        assert_eq!(parse(b"<PageList></PageList>"), Some(RangePage::default()));
        let ended = parse(b"<PageList><NextMarker/></PageList>");
        assert_eq!(ended, Some(RangePage::default()));
        assert_eq!(parse(b"<PageList/>"), Some(RangePage::default()));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for xml in [
            &b""[..],
            b"<Error><Code>ServerBusy</Code></Error>",
            b"<PageList><PageRange><Start>0</Start></PageRange></PageList>",
            b"<PageList><PageRange><Start>512</Start><End>0</End></PageRange></PageList>",
            b"<PageList><PageRange><Start>1</Start><End>512</End></PageRange></PageList>",
            b"<PageList><PageRange><Start>x</Start><End>511</End></PageRange></PageList>",
            b"<PageList><PageRange><Start>0</Start><End>18446744073709551615</End></PageRange></PageList>",
            b"<PageList><PageRange>",
        ] {
            assert_eq!(parse(xml), None, "{}", String::from_utf8_lossy(xml));
        }
    }
}
