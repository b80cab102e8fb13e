//! Which bytes make a request, and which requests fit.

use super::*;
use crate::BlockSizes;

fn terms() -> Terms {
    Terms {
        info: ExportInfo::disk(ByteLen(64 << 20)),
        structured: true,
        allocation: true,
        flush: true,
        fua: true,
    }
}

fn request(command: u16, offset: u64, len: u32) -> Request {
    Request {
        flags: 0,
        command,
        cookie: 7,
        offset,
        len,
    }
}

fn refusal(terms: &Terms, request: Request) -> Refusal {
    terms.admit(&request).expect_err("does not fit")
}

#[test]
fn the_header_is_laid_out_as_the_table_says() {
    let request = Request {
        flags: 0x0001,
        command: 0x0006,
        cookie: 0x1122_3344_5566_7788,
        offset: 0x0102_0304_0506_0708,
        len: 0x0a0b_0c0d,
    };
    let bytes = [
        0x25, 0x60, 0x95, 0x13, 0, 1, 0, 6, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 1, 2,
        3, 4, 5, 6, 7, 8, 0x0a, 0x0b, 0x0c, 0x0d,
    ];
    assert_eq!(encode_request(&request), bytes);
    assert_eq!(parse_request(&bytes), Ok(request));
}

#[test]
fn every_flipped_bit_of_the_magic_is_noticed() {
    let good = encode_request(&request(CMD_READ, 0, 512));
    for bit in 0..32 {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(parse_request(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn an_extent_may_end_with_the_export_but_not_after_it() {
    let terms = terms();
    let size = terms.info.size.0;
    assert!(terms.admit(&request(CMD_READ, size - 512, 512)).is_ok());
    for (command, errno) in [
        (CMD_READ, Errno::Inval),
        (CMD_WRITE, Errno::NoSpace),
        (CMD_TRIM, Errno::Inval),
        (CMD_WRITE_ZEROES, Errno::NoSpace),
        (CMD_BLOCK_STATUS, Errno::Inval),
    ] {
        for offset in [size - 512, size, u64::MAX - 511] {
            let refused = refusal(&terms, request(command, offset, 1_024));
            assert_eq!(refused.errno(), errno, "command {command} at {offset}");
        }
    }
}

#[test]
fn half_blocks_and_nothing_are_refused() {
    let mut terms = terms();
    for command in [
        CMD_READ,
        CMD_WRITE,
        CMD_TRIM,
        CMD_WRITE_ZEROES,
        CMD_BLOCK_STATUS,
    ] {
        let refuse = |at, len| refusal(&terms, request(command, at, len));
        assert_eq!(refuse(1, 512), Refusal::Misaligned);
        assert_eq!(refuse(0, 513), Refusal::Misaligned);
        assert_eq!(refuse(0, 0), Refusal::NoExtent);
    }
    terms.info.blocks = BlockSizes::PAGES;
    assert_eq!(
        refusal(&terms, request(CMD_WRITE, 512, 4_096)),
        Refusal::Misaligned
    );
}

#[test]
fn only_reads_and_writes_are_bound_by_the_largest_payload() {
    let terms = terms();
    let long = terms.info.blocks.payload_max() + 512;
    for command in [CMD_READ, CMD_WRITE] {
        assert_eq!(refusal(&terms, request(command, 0, long)), Refusal::TooLong);
        assert!(terms.admit(&request(command, 0, long - 512)).is_ok());
    }
    for command in [CMD_TRIM, CMD_WRITE_ZEROES, CMD_BLOCK_STATUS] {
        assert!(terms.admit(&request(command, 0, long)).is_ok());
    }
}

#[test]
fn a_read_only_export_refuses_every_change_with_a_permission_error() {
    let mut terms = terms();
    terms.info.read_only = true;
    for command in [CMD_WRITE, CMD_TRIM, CMD_WRITE_ZEROES] {
        let refused = refusal(&terms, request(command, 0, 512));
        assert_eq!(refused.errno(), Errno::Perm);
    }
    assert!(terms.admit(&request(CMD_READ, 0, 512)).is_ok());
    assert!(terms.admit(&request(CMD_FLUSH, 0, 0)).is_ok());
}

#[test]
fn a_command_takes_its_own_flags_and_no_other() {
    let terms = terms();
    let all = [
        CMD_FLAG_NO_HOLE,
        CMD_FLAG_DF,
        CMD_FLAG_REQ_ONE,
        CMD_FLAG_FAST_ZERO,
        1 << 5,
        1 << 15,
    ];
    for (command, own) in [
        (CMD_READ, &[CMD_FLAG_DF][..]),
        (CMD_WRITE, &[]),
        (CMD_TRIM, &[]),
        (CMD_WRITE_ZEROES, &[CMD_FLAG_NO_HOLE]),
        (CMD_BLOCK_STATUS, &[CMD_FLAG_REQ_ONE]),
    ] {
        for flag in all {
            let mut request = request(command, 0, 512);
            request.flags = flag | CMD_FLAG_FUA;
            assert_eq!(terms.admit(&request).is_ok(), own.contains(&flag));
        }
    }
}

#[test]
fn what_was_not_agreed_on_is_not_offered() {
    let mut terms = terms();
    terms.allocation = false;
    terms.structured = false;
    terms.info.trim = false;
    terms.info.zeroes = ZeroSupport::None;
    for command in [CMD_BLOCK_STATUS, CMD_TRIM, CMD_WRITE_ZEROES] {
        assert_eq!(
            refusal(&terms, request(command, 0, 512)),
            Refusal::NotOffered
        );
    }
    let mut whole = request(CMD_READ, 0, 512);
    whole.flags = CMD_FLAG_DF;
    assert_eq!(refusal(&terms, whole), Refusal::UnknownFlag);
}

#[test]
fn a_flush_and_durability_are_refused_where_a_server_does_not_offer_them() {
    let mut terms = terms();
    terms.flush = false;
    terms.fua = false;
    assert_eq!(
        refusal(&terms, request(CMD_FLUSH, 0, 0)),
        Refusal::NotOffered
    );
    let mut write = request(CMD_WRITE, 0, 512);
    assert!(terms.admit(&write).is_ok());
    write.flags = CMD_FLAG_FUA;
    assert_eq!(refusal(&terms, write), Refusal::UnknownFlag);
}

#[test]
fn a_flush_takes_no_extent_and_an_unknown_command_is_refused() {
    assert_eq!(
        refusal(&terms(), request(CMD_FLUSH, 0, 512)),
        Refusal::NoExtent
    );
    assert_eq!(
        refusal(&terms(), request(5, 0, 512)),
        Refusal::UnknownCommand
    );
    assert_eq!(
        refusal(&terms(), request(999, 0, 512)),
        Refusal::UnknownCommand
    );
}

#[test]
fn flags_reach_the_operation() {
    let mut terms = terms();
    terms.info.zeroes = ZeroSupport::Fast;
    let mut zeroes = request(CMD_WRITE_ZEROES, 512, 512);
    zeroes.flags = CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO | CMD_FLAG_FUA;
    assert_eq!(
        terms.admit(&zeroes),
        Ok(Operation::WriteZeroes {
            at: ByteOffset(512),
            len: 512,
            flags: ZeroFlags {
                no_hole: true,
                fast_only: true,
                fua: true
            }
        })
    );
    let mut write = request(CMD_WRITE, 0, 512);
    write.flags = CMD_FLAG_FUA;
    assert_eq!(
        terms.admit(&write),
        Ok(Operation::Write {
            at: ByteOffset(0),
            len: 512,
            fua: true
        })
    );
}
