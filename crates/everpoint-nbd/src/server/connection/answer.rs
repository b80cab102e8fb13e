//! What the export answered, turned into a reply.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Connection, Held};
use crate::reply::{
    EXTENTS_MAX, cut_extents, push_data_head, push_error, push_hole, push_simple, push_status,
};
use crate::request::Operation;
use crate::server::negotiate::ALLOCATION_CONTEXT;
use crate::{Allocation, Errno, Export};

/// A request that is finished.
pub(super) struct Done<'e> {
    pub(super) cookie: u64,
    pub(super) operation: Operation,
    pub(super) outcome: Outcome,
    pub(super) held: Option<Held<'e>>,
}

/// What the export answered.
pub(super) enum Outcome {
    Plain(Result<(), Errno>),
    Data(Result<Bytes, Errno>),
    Status(Result<Vec<Allocation>, Errno>),
}

impl<'e, E: Export, S: AsyncRead + AsyncWrite + Unpin> Connection<'e, E, S> {
    /// Queues the reply, and gives back the request's share of the budget: at once, or with the
    /// last byte of the data that goes out.
    pub(super) fn answer(&mut self, done: Done<'e>) {
        let Done {
            cookie,
            operation,
            outcome,
            held,
        } = done;
        if self.sending {
            match outcome {
                Outcome::Plain(result) => {
                    let errno = result.err().map(|errno| plain_errno(&operation, errno));
                    push_simple(self.output.heads(), cookie, errno);
                }
                Outcome::Data(result) => {
                    return self.answer_read(cookie, &operation, result, held);
                }
                Outcome::Status(result) => self.answer_status(cookie, &operation, result),
            }
        }
        self.release(held);
    }

    fn answer_read(
        &mut self,
        cookie: u64,
        operation: &Operation,
        result: Result<Bytes, Errno>,
        held: Option<Held<'e>>,
    ) {
        let &Operation::Read { at, len, whole } = operation else {
            unreachable!("only reads return data");
        };
        let structured = self.terms.structured;
        let heads = self.output.heads();
        let result = result.and_then(|data| right_len(data, len));
        match (result, held) {
            (Ok(data), Some(held)) => {
                if structured && !whole && is_zero(&data) {
                    push_hole(heads, cookie, at, len);
                    return self.release(Some(held));
                }
                if structured {
                    push_data_head(heads, cookie, at, len);
                } else {
                    push_simple(heads, cookie, None);
                }
                self.output.push_payload(data, held);
            }
            (Ok(_), None) => unreachable!("a read holds a share of the budget"),
            (Err(errno), held) => {
                if structured {
                    push_error(heads, cookie, errno, "");
                } else {
                    push_simple(heads, cookie, Some(errno));
                }
                self.release(held);
            }
        }
    }

    fn answer_status(
        &mut self,
        cookie: u64,
        operation: &Operation,
        result: Result<Vec<Allocation>, Errno>,
    ) {
        let &Operation::BlockStatus { len, one, .. } = operation else {
            unreachable!("only status queries return extents");
        };
        let count_max = if one { 1 } else { EXTENTS_MAX };
        let heads = self.output.heads();
        let result = result.map(|extents| cut_extents(extents, len, count_max));
        match result {
            Ok(extents) if extents.is_empty() => {
                tracing::error!(cookie, len, "export told nothing about its allocation");
                push_error(heads, cookie, Errno::Io, "");
            }
            Ok(extents) => push_status(heads, cookie, ALLOCATION_CONTEXT, &extents),
            Err(errno) => push_error(heads, cookie, errno, ""),
        }
    }

    fn release(&mut self, held: Option<Held<'e>>) {
        self.held_bytes -= held.map_or(0, |held| held.0.num_permits());
    }
}

/// "Not supported" may answer nothing but zeroes that were asked to be fast.
fn plain_errno(operation: &Operation, errno: Errno) -> Errno {
    let fast = matches!(operation, Operation::WriteZeroes { flags, .. } if flags.fast_only);
    if errno == Errno::NotSup && !fast {
        Errno::Inval
    } else {
        errno
    }
}

fn right_len(data: Bytes, len: u32) -> Result<Bytes, Errno> {
    if u32::try_from(data.len()) == Ok(len) {
        Ok(data)
    } else {
        tracing::error!(asked = len, got = data.len(), "export read a wrong length");
        Err(Errno::Io)
    }
}

/// Whether all bytes are zero: then they need not be sent. Data that is not zero mostly shows it at
/// once; zeroes are looked at a page at a time, which the compiler makes wide.
fn is_zero(data: &[u8]) -> bool {
    data.first() == Some(&0)
        && data
            .chunks(4_096)
            .all(|page| page.iter().fold(0, |bits, byte| bits | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_anywhere_is_not_zero() {
        let mut data = vec![0; 10_000];
        assert!(is_zero(&data));
        for at in [0, 4_095, 4_096, 9_999] {
            data[at] = 1;
            assert!(!is_zero(&data), "{at}");
            data[at] = 0;
        }
    }

    #[test]
    fn only_fast_zeroes_may_be_unsupported() {
        let flush = Operation::Flush;
        assert_eq!(plain_errno(&flush, Errno::NotSup), Errno::Inval);
        assert_eq!(plain_errno(&flush, Errno::Io), Errno::Io);
    }
}
