//! A small client, which says what it is told to, and shows what it hears.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::rigs::page_blobs::dates;

/// A connection that is made when it is needed.
#[derive(Debug)]
pub(super) struct Client {
    address: SocketAddr,
    account: String,
    open: Option<SendRequest<Full<Bytes>>>,
}

/// A request to be made.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

/// An answer.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    headers: HeaderMap,
    pub(super) body: Bytes,
}

pub(super) fn put(path: &str) -> Ask {
    Ask::new(Method::PUT, path)
}

pub(super) fn get(path: &str) -> Ask {
    Ask::new(Method::GET, path)
}

pub(super) fn head(path: &str) -> Ask {
    Ask::new(Method::HEAD, path)
}

pub(super) fn delete(path: &str) -> Ask {
    Ask::new(Method::DELETE, path)
}

impl Ask {
    /// With what every request needs.
    fn new(method: Method, path: &str) -> Self {
        Self {
            method,
            path: path.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
        .with("x-ms-version", "2023-11-03")
        .with("x-ms-date", dates::http_date(SystemTime::now()))
        .with("authorization", "SharedKey everpoint:it-is-not-looked-at")
    }

    /// Sets a header, in the place of one that was set before.
    #[must_use]
    pub(super) fn with(self, name: &str, value: impl Display) -> Self {
        let mut ask = self.without(name);
        ask.headers.push((name.to_owned(), value.to_string()));
        ask
    }

    #[must_use]
    pub(super) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self
    }

    #[must_use]
    pub(super) fn with_body(self, body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            ..self
        }
    }
}

impl Client {
    /// For an endpoint `http://ADDRESS/ACCOUNT`.
    pub(super) fn new(endpoint: &str) -> Self {
        let place = endpoint.strip_prefix("http://").unwrap();
        let (address, account) = place.split_once('/').unwrap();
        Self {
            address: address.parse().unwrap(),
            account: account.to_owned(),
            open: None,
        }
    }

    /// Asks, and is answered.
    pub(super) async fn ask(&mut self, ask: Ask) -> Reply {
        let reply = self.try_ask(ask).await;
        reply.expect("it is answered")
    }

    /// Asks; none: the connection was closed instead of an answer.
    pub(super) async fn try_ask(&mut self, ask: Ask) -> Option<Reply> {
        let mut sender = match self.open.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.connect().await?,
        };
        let path = format!("/{}/{}", self.account, ask.path);
        let mut request = Request::builder().method(ask.method.clone()).uri(path);
        request = request.header("host", self.address.to_string());
        for (name, value) in ask.headers {
            request = request.header(name, value);
        }
        if ask.method == Method::PUT {
            request = request.header("content-length", ask.body.len());
        }
        let request = request.body(Full::new(ask.body)).unwrap();
        sender.ready().await.ok()?;
        let response = sender.send_request(request).await.ok()?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        self.open = Some(sender);
        Some(Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        })
    }

    async fn connect(&self) -> Option<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
        // It ends when the sender is dropped, or the server closes it.
        tokio::spawn(connection);
        Some(sender)
    }
}

impl Reply {
    #[track_caller]
    pub(super) fn is(self, status: u16) -> Self {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{:?} {body}", self.headers);
        self
    }

    /// Refused with a status and a code, in the header and in the body.
    #[track_caller]
    pub(super) fn refused(self, status: u16, code: &str) {
        let said = self.is(status);
        assert_eq!(said.header("x-ms-error-code"), code);
        let body = String::from_utf8_lossy(&said.body);
        assert!(
            body.contains(&format!("<Error><Code>{code}</Code><Message>")),
            "{body}"
        );
    }

    /// A header's value, or nothing.
    pub(super) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// What stands in each of the elements of a name.
    pub(super) fn elements(&self, name: &str) -> Vec<String> {
        let body = str::from_utf8(&self.body).unwrap();
        let (start, end) = (format!("<{name}>"), format!("</{name}>"));
        let found = body.split(&start).skip(1);
        let found = found.map(|rest| rest.split(&end).next().unwrap().to_owned());
        found.collect()
    }

    /// A list of pages, as `+0-511` for one that is there, `-512-1023` for one that was cleared.
    pub(super) fn ranges(&self) -> Vec<String> {
        let body = str::from_utf8(&self.body).unwrap();
        let found = body
            .split("Range><Start>")
            .skip(1)
            .zip(body.split("Range><Start>"));
        let found = found.map(|(this, before)| {
            let sign = if before.ends_with("<Page") { '+' } else { '-' };
            let (start, rest) = this.split_once("</Start><End>").unwrap();
            let (last, _) = rest.split_once("</End>").unwrap();
            format!("{sign}{start}-{last}")
        });
        found.collect()
    }
}
