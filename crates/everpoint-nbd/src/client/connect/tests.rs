//! The client's handshake against servers that the test plays, old and hostile ones among them.

use super::*;
use crate::BlockSizes;
use crate::client::Remedy;
use crate::handshake::{encode_greeting, push_option_reply};
use crate::protocol::{OPTION_LEN_MAX, REP_ERR_POLICY};
use crate::server::tests_support::negotiated_with_memory;

/// Plays `script` to the client, whatever it says.
async fn play(script: &[u8]) -> Result<Connected<tokio::io::DuplexStream>, ConnectError> {
    let (stream, mut wire) = tokio::io::duplex(1 << 20);
    wire.write_all(script).await.unwrap();
    wire.shutdown().await.unwrap();
    let end = negotiate(stream, "disk", true).await;
    drop(wire);
    end
}

/// A greeting and these replies: option, type, content.
fn script(replies: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let mut script = encode_greeting().to_vec();
    for (option, reply, data) in replies {
        push_option_reply(&mut script, *option, *reply, data);
    }
    script
}

const SIZE_AND_FLAGS: &[u8] = b"\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x05";

async fn refused(replies: &[(u32, u32, &[u8])]) -> ConnectError {
    match play(&script(replies)).await {
        Ok(_) => panic!("connected"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn everything_that_our_own_server_offers_is_agreed_on() {
    let connected = negotiated_with_memory("disk", |stream| negotiate(stream, "disk", true))
        .await
        .unwrap();
    let terms = connected.terms;
    assert!(terms.structured && terms.allocation);
    assert!(connected.context.is_some());
    assert_eq!(terms.info.blocks, BlockSizes::SECTORS);
    assert_eq!(terms.info.description, "memory");
}

#[tokio::test]
async fn structured_replies_are_left_out_if_they_are_not_wanted() {
    let connected = negotiated_with_memory("disk", |stream| negotiate(stream, "disk", false))
        .await
        .unwrap();
    assert!(!connected.terms.structured && !connected.terms.allocation);
}

#[tokio::test]
async fn a_server_that_knows_only_the_old_way_is_understood() {
    for (no_zeroes, padding) in [(true, 0), (false, 124)] {
        let mut script = script(&[
            (OPT_STRUCTURED_REPLY, REP_ERR_UNSUP, b""),
            (OPT_GO, REP_ERR_UNSUP, b""),
        ]);
        script[17] = if no_zeroes { 3 } else { 1 };
        script.extend_from_slice(&(1_u64 << 20).to_be_bytes());
        script.extend_from_slice(&[0, 0x25]);
        script.resize(script.len() + padding, 0);
        let terms = play(&script).await.unwrap().terms;
        assert_eq!(terms.info.size, ByteLen(1 << 20));
        assert!(terms.info.trim && !terms.structured);
        assert!(terms.flush && !terms.fua);
        assert_eq!(terms.info.blocks, BlockSizes::SECTORS);
    }
}

#[tokio::test]
async fn what_a_server_says_against_it_is_told_apart() {
    let structured = (OPT_STRUCTURED_REPLY, REP_ERR_UNSUP, &b""[..]);
    let go = |reply| [structured, (OPT_GO, reply, b"because")];
    for (reply, expected, remedy) in [
        (REP_ERR_UNKNOWN, "no such export", Remedy::Report),
        (REP_ERR_TLS_REQD, "demands TLS", Remedy::Report),
        (REP_ERR_SHUTDOWN, "shutting down", Remedy::Reconnect),
        (REP_ERR_POLICY, "refuses", Remedy::Report),
    ] {
        let error = refused(&go(reply)).await;
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.remedy(), remedy);
    }
    let tls = refused(&[(OPT_STRUCTURED_REPLY, REP_ERR_TLS_REQD, b"")]).await;
    assert!(matches!(tls, ConnectError::TlsRequired));
}

#[tokio::test]
async fn a_server_that_makes_no_sense_is_left() {
    let structured = (OPT_STRUCTURED_REPLY, REP_ERR_UNSUP, &b""[..]);
    let error = refused(&[structured, (OPT_GO, REP_ACK, b"")]).await;
    assert!(matches!(error, ConnectError::NoSize));
    let error = refused(&[structured, (OPT_EXPORT_NAME, REP_ACK, b"")]).await;
    assert!(matches!(error, ConnectError::UnexpectedReply { .. }));
    let error = refused(&[structured, (OPT_GO, 77, b"")]).await;
    assert!(matches!(
        error,
        ConnectError::UnexpectedReply { reply: 77, .. }
    ));
    let error = refused(&[structured, (OPT_GO, REP_INFO, b"\x00\x00short")]).await;
    assert!(matches!(error, ConnectError::Reply(_)));
    let error = refused(&[structured]).await;
    assert!(matches!(error, ConnectError::Closed));
    assert_eq!(error.remedy(), Remedy::Reconnect);
    let error = play(b"SSH-2.0-OpenSSH_9.2\r\n").await.err().unwrap();
    assert!(matches!(error, ConnectError::Greeting(_)));
}

#[tokio::test]
async fn a_reply_without_end_or_measure_is_not_read() {
    let structured = (OPT_STRUCTURED_REPLY, REP_ERR_UNSUP, &b""[..]);
    let mut endless = vec![structured];
    endless.resize(REPLY_COUNT_MAX + 1, (OPT_GO, REP_INFO, SIZE_AND_FLAGS));
    let error = refused(&endless).await;
    assert!(matches!(error, ConnectError::UnexpectedReply { .. }));

    let mut script = script(&[structured, (OPT_GO, REP_INFO, SIZE_AND_FLAGS)]);
    let at = script.len() - SIZE_AND_FLAGS.len() - 4;
    script[at..at + 4].copy_from_slice(&(OPTION_LEN_MAX + 1).to_be_bytes());
    assert!(matches!(play(&script).await, Err(ConnectError::Reply(_))));
}
