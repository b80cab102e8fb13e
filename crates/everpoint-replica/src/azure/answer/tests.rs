//! Tests of what answers mean.

use everpoint_units::Level;
use http::Response;

use super::*;
use crate::error::Remedy;

const ASKED: Asked = Asked {
    fence: None,
    at: ByteOffset(512),
    len: ByteLen(1_024),
};

fn answer(status: u16, code: &str) -> Answer {
    let response = Response::builder().status(status);
    let (head, ()) = response.body(()).unwrap().into_parts();
    let body = format!("\u{feff}<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    Answer::new(head, body.into())
}

fn with_headers(status: u16, headers: &[(&str, &str)]) -> Answer {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    let (head, ()) = response.body(()).unwrap().into_parts();
    Answer::new(head, Bytes::new())
}

fn remedy(status: u16, code: &str) -> Remedy {
    answer(status, code)
        .unless_failed(ASKED)
        .unwrap_err()
        .remedy()
}

#[test]
fn what_the_service_may_have_done_raises_the_fence() {
    for (status, code) in [
        (500, "OperationTimedOut"),
        (500, "InternalError"),
        (503, "OperationTimedOut"),
        (503, ""),
        (502, ""),
        (504, ""),
        (408, "RequestTimeout"),
    ] {
        assert_eq!(remedy(status, code), Remedy::RaiseFence, "{status} {code}");
    }
}

#[test]
fn what_the_service_did_not_take_is_asked_again() {
    assert_eq!(remedy(503, "ServerBusy"), Remedy::Again { after: None });
    assert_eq!(remedy(400, "Crc64Mismatch"), Remedy::Again { after: None });
    let busy = with_headers(
        503,
        &[("x-ms-error-code", "ServerBusy"), ("retry-after", "7")],
    );
    let after = Some(Duration::from_secs(7));
    let busy = busy.unless_failed(ASKED).unwrap_err();
    assert_eq!(busy.remedy(), Remedy::Again { after });
}

#[test]
fn only_the_sequence_number_fences() {
    let fence = Fence::first_of(Level(4)).unwrap();
    let fenced = answer(412, "SequenceNumberConditionNotMet").unless_failed(Asked {
        fence: Some(fence),
        ..ASKED
    });
    assert!(matches!(fenced, Err(PageError::Fenced { fence: of }) if of == fence));
    for code in ["LeaseIdMissing", "ConditionNotMet", "LeaseLost"] {
        assert_eq!(remedy(412, code), Remedy::Report, "{code}");
    }
}

#[test]
fn what_a_person_must_mend_is_told_apart() {
    let refusal = |status, code: &str| match answer(status, code).unless_failed(ASKED) {
        Err(PageError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    let cases = [
        (404, "ContainerNotFound", Refusal::NoContainer),
        (404, "BlobNotFound", Refusal::Missing),
        (409, "BlobAlreadyExists", Refusal::Exists),
        (409, "LeaseAlreadyPresent", Refusal::LeaseHeld),
        (412, "LeaseIdMissing", Refusal::LeaseHeld),
    ];
    for (status, code, expected) in cases {
        assert_eq!(refusal(status, code), expected);
    }
    let credential = refusal(403, "AuthorizationPermissionMismatch");
    assert!(matches!(credential, Refusal::Credential { .. }));
    let policy = refusal(409, "BlobImmutableDueToPolicy");
    assert!(policy.to_string().contains("retention policy"), "{policy}");
    assert!(matches!(
        refusal(409, "InvalidBlobType"),
        Refusal::Foreign { .. }
    ));
    let (at, len) = (ASKED.at, ASKED.len);
    assert_eq!(
        refusal(416, "InvalidPageRange"),
        Refusal::TooSmall { at, len }
    );
    assert!(matches!(
        refusal(400, "InvalidInput"),
        Refusal::Request { .. }
    ));
}

#[test]
fn a_clock_that_is_off_is_not_taken_for_a_wrong_key() {
    let failed = |date: &str| {
        let code = ("x-ms-error-code", "AuthenticationFailed");
        with_headers(403, &[code, ("date", date)]).unless_failed(ASKED)
    };
    let off = failed("Sat, 28 Nov 2015 10:00:00 GMT").unwrap_err();
    let PageError::Refused(Refusal::Clock { minutes }) = off else {
        panic!("{off:?}");
    };
    assert!(365 * 24 * 60 < minutes, "{minutes}");
    let wrong_key = failed("nonsense").unwrap_err();
    let is_credential = matches!(wrong_key, PageError::Refused(Refusal::Credential { .. }));
    assert!(is_credential, "{wrong_key:?}");
}

#[test]
fn properties_are_those_of_a_page_blob() {
    let base = [
        ("x-ms-blob-type", "PageBlob"),
        ("content-length", "1049088"),
        ("x-ms-blob-sequence-number", "4294967297"),
        ("x-ms-lease-state", "leased"),
    ];
    let found = with_headers(200, &base).properties().unwrap();
    assert_eq!(found.len, ByteLen(1_049_088));
    assert_eq!((found.fence.level(), found.fence.counter()), (Level(1), 1));
    assert_eq!((found.copy, found.is_leased), (CopyState::Done, true));

    let copying = [
        ("x-ms-copy-status", "pending"),
        ("x-ms-copy-progress", "3/9"),
    ];
    let copying = with_headers(200, &[&base[..], &copying].concat());
    let pending = CopyState::Pending {
        copied: 3,
        total: 9,
    };
    assert_eq!(copying.properties().unwrap().copy, pending);
    let failed = with_headers(
        200,
        &[&base[..], &[("x-ms-copy-status", "aborted")]].concat(),
    );
    assert_eq!(failed.properties().unwrap().copy, CopyState::Failed);

    let foreign = with_headers(200, &[("x-ms-blob-type", "BlockBlob")]).properties();
    let foreign = foreign.unwrap_err().to_string();
    assert!(foreign.contains("BlockBlob"), "{foreign}");
    let torn = with_headers(200, &base[..2]).properties().unwrap_err();
    assert_eq!(torn.remedy(), Remedy::RaiseFence);
}
