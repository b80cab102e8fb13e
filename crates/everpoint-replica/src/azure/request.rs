//! A request of the page-blob client while it is made.

use everpoint_units::{ByteLen, ByteOffset};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use object_store::PutPayload;
use object_store::azure::AzureCredential;
use object_store::client::{HttpRequest, HttpRequestBody};

use super::answer::Asked;
use crate::error::Refusal;
use crate::fence::Fence;
use crate::target::{LeaseId, SnapshotId};

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Request {
    method: Method,
    url: String,
    query: Vec<(&'static str, String)>,
    headers: HeaderMap,
    copy_source: Option<String>,
    body: Option<PutPayload>,
    asked: Asked,
    /// Bytes of the answer. Unit: bytes.
    expects: u64,
}

impl Request {
    pub(super) fn new(method: Method, url: String) -> Result<Self, Refusal> {
        expect_url(&url)?;
        Ok(Self {
            method,
            url,
            query: Vec::new(),
            headers: HeaderMap::new(),
            copy_source: None,
            body: None,
            asked: Asked {
                fence: None,
                at: ByteOffset(0),
                len: ByteLen(0),
            },
            expects: 0,
        })
    }

    pub(super) fn query(&mut self, name: &'static str, value: &str) {
        self.query.push((name, value.to_owned()));
    }

    pub(super) fn header(&mut self, name: &'static str, value: &str) {
        let value = HeaderValue::from_str(value).expect("numbers, words and URLs that were parsed");
        self.headers.insert(HeaderName::from_static(name), value);
    }

    pub(super) fn range(&mut self, at: ByteOffset, len: ByteLen) {
        let range = format!("bytes={}-{}", at.0, at.0 + len.0 - 1);
        self.header("x-ms-range", &range);
        (self.asked.at, self.asked.len) = (at, len);
    }

    /// It takes effect only while this is the blob's sequence number.
    pub(super) fn under(&mut self, fence: Fence) {
        self.header("x-ms-if-sequence-number-eq", &fence.number().to_string());
        self.asked.fence = Some(fence);
    }

    pub(super) fn lease(&mut self, lease: Option<LeaseId>) {
        if let Some(lease) = lease {
            self.header("x-ms-lease-id", &lease.to_string());
        }
    }

    pub(super) fn snapshot(&mut self, snapshot: Option<&SnapshotId>) {
        if let Some(snapshot) = snapshot {
            self.query("snapshot", &snapshot.0);
        }
    }

    pub(super) fn copy_source(&mut self, url: String, snapshot: &str) -> Result<(), Refusal> {
        expect_url(&url)?;
        self.copy_source = Some(with_query(url, &[("snapshot", snapshot)]));
        Ok(())
    }

    pub(super) fn body(&mut self, body: PutPayload) {
        self.body = Some(body);
    }

    pub(super) fn expects(&mut self, len: ByteLen) {
        self.expects = len.0;
    }

    /// What an error has to say.
    pub(super) const fn asked(&self) -> Asked {
        self.asked
    }

    /// What has to pass the link, either way. Unit: bytes.
    pub(super) fn moves(&self) -> u64 {
        let body = self.body.as_ref().map_or(0, PutPayload::content_length);
        body as u64 + self.expects
    }

    /// A source in the same account is read by the right of whoever asks, but a SAS has to be said for it, too.
    pub(super) fn add_copy_credential(&mut self, credential: &AzureCredential) {
        let Some(mut source) = self.copy_source.take() else {
            return;
        };
        if let AzureCredential::SASToken(pairs) = credential {
            source = with_query(source, pairs);
        }
        self.header("x-ms-copy-source", &source);
    }

    pub(super) fn into_http(self) -> HttpRequest {
        let url = with_query(self.url, &self.query);
        let len = self.body.as_ref().map_or(0, PutPayload::content_length);
        let body = self.body.map_or_else(HttpRequestBody::empty, Into::into);
        let mut request = HttpRequest::new(body);
        *request.uri_mut() = url.parse().expect("it was parsed, and queries are escaped");
        *request.headers_mut() = self.headers;
        if self.method == Method::PUT {
            request.headers_mut().insert(CONTENT_LENGTH, len.into());
        }
        *request.method_mut() = self.method;
        request
    }
}

/// Refuses what is no URL, or has one part more or less than an endpoint and names: the request would ask for another
/// blob.
pub(super) fn expect_url(url: &str) -> Result<(), Refusal> {
    let is_whole = |uri: Uri| uri.scheme().is_some() && uri.authority().is_some();
    let is_plain = url.is_ascii() && !url.contains(['?', '#']);
    match is_plain && url.parse().is_ok_and(is_whole) {
        true => Ok(()),
        false => Err(Refusal::NoUrl { url: url.into() }),
    }
}

fn with_query<N: AsRef<str>, V: AsRef<str>>(url: String, pairs: &[(N, V)]) -> String {
    if pairs.is_empty() {
        return url;
    }
    let (base, first) = match url.split_once('?') {
        Some((base, query)) => (base.to_owned(), query.to_owned()),
        None => (url, String::new()),
    };
    let mut query = form_urlencoded::Serializer::new(first);
    query.extend_pairs(pairs);
    format!("{base}?{}", query.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_goes_on_where_one_is() {
        let url = with_query(
            "http://h/a".to_owned(),
            &[("snapshot", "2026-11-28T00:00:00.1Z")],
        );
        assert_eq!(url, "http://h/a?snapshot=2026-11-28T00%3A00%3A00.1Z");
        let url = with_query(url, &[("sig", "a+b/c="), ("sp", "r")]);
        let (_, query) = url.split_once('?').unwrap();
        assert!(query.ends_with("&sig=a%2Bb%2Fc%3D&sp=r"), "{query}");
    }

    #[test]
    fn names_that_give_no_url_or_another_one_are_refused() {
        for name in ["disk.vhd", "a/b", "a%20b", ""] {
            assert_eq!(expect_url(&format!("https://h/c/{name}")), Ok(()), "{name}");
        }
        for name in ["a b", "a\n", "d\u{e4}", "a?comp=page", "a#b", "<a>"] {
            let url = format!("https://h/c/{name}");
            let refused = Request::new(Method::GET, url.clone()).map(|_| ());
            assert_eq!(refused, Err(Refusal::NoUrl { url: url.clone() }));
            let mut copy = Request::new(Method::PUT, "http://h/b".to_owned()).unwrap();
            assert_eq!(
                copy.copy_source(url.clone(), "1"),
                Err(Refusal::NoUrl { url })
            );
        }
        for endpoint in ["", "h", "/c", "https://", "https://a b/c"] {
            assert!(expect_url(endpoint).is_err(), "{endpoint}");
        }
    }

    #[test]
    fn a_put_says_its_length_also_when_it_is_zero() {
        let mut request = Request::new(Method::PUT, "http://h/a".to_owned()).unwrap();
        let len = |request: Request| request.into_http().headers()[CONTENT_LENGTH].clone();
        assert_eq!(len(request.clone()), "0");
        request.body(PutPayload::from_static(&[1; 512]));
        assert_eq!(request.moves(), 512);
        assert_eq!(len(request), "512");
    }

    #[test]
    fn the_source_of_a_copy_carries_a_sas_and_nothing_else() {
        let mut request = Request::new(Method::PUT, "http://h/b".to_owned()).unwrap();
        let source = request.copy_source("http://h/a".to_owned(), "1");
        source.unwrap();
        let mut with_sas = request.clone();
        let sas = vec![("sig".to_owned(), "s".to_owned())];
        with_sas.add_copy_credential(&AzureCredential::SASToken(sas));
        let source = |request: Request| request.into_http().headers()["x-ms-copy-source"].clone();
        assert_eq!(source(with_sas), "http://h/a?snapshot=1&sig=s");
        request.add_copy_credential(&AzureCredential::BearerToken("t".to_owned()));
        assert_eq!(source(request), "http://h/a?snapshot=1");
    }
}
