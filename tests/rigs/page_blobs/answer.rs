//! Answers: a status, headers, and a body that is made from pages while it is sent.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};

use super::pages::Pages;
use super::refusal::Refusal;

/// How much of a blob is taken out of its pages at once. Unit: bytes.
const FRAME_LEN_MAX: u64 = 1 << 20;

/// What a request is answered with.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: AnswerBody,
}

/// Bytes that are there, or that are yet to be read from pages.
#[derive(Debug)]
pub(super) enum AnswerBody {
    Bytes(Bytes),
    Pages { pages: Pages, left: Range<u64> },
}

impl Answer {
    pub(super) fn new(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: AnswerBody::Bytes(Bytes::new()),
        }
    }

    #[must_use]
    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.set(name, value);
        self
    }

    pub(super) fn set(&mut self, name: &'static str, value: impl ToString) {
        let value = HeaderValue::from_str(&value.to_string());
        let value = value.unwrap_or(HeaderValue::from_static("(cannot be written)"));
        self.headers.insert(HeaderName::from_static(name), value);
    }

    pub(super) fn set_metadata(&mut self, name: &str, value: &str) {
        let name = HeaderName::try_from(format!("x-ms-meta-{name}"));
        let (name, value) = (name, HeaderValue::from_str(value));
        let (Ok(name), Ok(value)) = (name, value) else {
            unreachable!("it came in a header");
        };
        self.headers.insert(name, value);
    }

    #[must_use]
    pub(super) fn with_body(self, body: AnswerBody) -> Self {
        Self { body, ..self }
    }

    #[must_use]
    pub(super) fn with_xml(self, xml: String) -> Self {
        self.with("content-type", "application/xml")
            .with_body(AnswerBody::Bytes(xml.into()))
    }

    pub(super) fn refused(refusal: &Refusal) -> Self {
        let status =
            StatusCode::from_u16(refusal.status).expect("statuses are written in the code");
        let mut answer = Self::new(status).with("x-ms-error-code", refusal.code);
        if let Some(wait) = refusal.retry_after {
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            answer.set("retry-after", seconds);
        }
        if status == StatusCode::NOT_MODIFIED {
            return answer;
        }
        let mut xml = declaration();
        xml.push_str("<Error>");
        element(&mut xml, "Code", refusal.code);
        element(&mut xml, "Message", refusal.message);
        xml.push_str("</Error>");
        answer.with_xml(xml)
    }

    /// As hyper sends it. An answer to HEAD keeps the length that it says, and has no body.
    pub(super) fn into_response(self, is_head: bool) -> Response<AnswerBody> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        if is_head {
            if !response.headers().contains_key(header::CONTENT_LENGTH) {
                let len = response.body().len();
                response
                    .headers_mut()
                    .insert(header::CONTENT_LENGTH, len.into());
            }
            *response.body_mut() = AnswerBody::Bytes(Bytes::new());
        }
        response
    }
}

impl AnswerBody {
    /// Unit: bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Pages { left, .. } => left.end - left.start,
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut *self {
            Self::Bytes(bytes) => std::mem::take(bytes),
            Self::Pages { pages, left } => {
                let end = left.end.min(left.start + FRAME_LEN_MAX);
                let bytes = pages.read(left.start..end);
                left.start = end;
                Bytes::from(bytes)
            }
        };
        Poll::Ready((!next.is_empty()).then_some(Ok(Frame::data(next))))
    }

    fn is_end_stream(&self) -> bool {
        self.len() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len())
    }
}

/// How a document begins.
pub(super) fn declaration() -> String {
    r#"<?xml version="1.0" encoding="utf-8"?>"#.to_owned()
}

/// An element with a text.
pub(super) fn element(xml: &mut String, name: &str, text: impl ToString) {
    write!(xml, "<{name}>").expect("a string takes it");
    for letter in text.to_string().chars() {
        match letter {
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '&' => xml.push_str("&amp;"),
            '"' => xml.push_str("&quot;"),
            _ => xml.push(letter),
        }
    }
    write!(xml, "</{name}>").expect("a string takes it");
}
