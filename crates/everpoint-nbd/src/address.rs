//! Where an export is: `nbd://HOST[:PORT]/NAME` or `nbd+unix:///NAME?socket=PATH`.
//!
//! Source: "The NBD URI format",
//! <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md>. The schemes with TLS are
//! known and refused.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use crate::protocol::NAME_LEN_MAX;

/// The port that IANA assigned.
const PORT: u16 = 10_809;

/// An export on a server.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct NbdAddress {
    /// Where the server listens.
    pub endpoint: Endpoint,
    /// The export's name; empty for the default export.
    pub export: String,
}

/// Where a server listens.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp {
        /// A name or an address; an IPv6 address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
}

/// A text that is no NBD address. The message says what to write instead.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseAddressError {
    /// Another scheme, or none.
    #[error("an NBD address begins with nbd:// or nbd+unix://")]
    Scheme,
    /// A scheme with TLS.
    #[error("NBD over TLS is not supported; use nbd:// or nbd+unix://")]
    Tls,
    /// No host in `nbd://`, or one with a user.
    #[error("nbd:// is followed by HOST or HOST:PORT")]
    Host,
    /// Not a port.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// Something between `nbd+unix://` and the name.
    #[error("nbd+unix:// is followed by /NAME?socket=PATH")]
    HostBeforeSocket,
    /// `nbd+unix://` without a path.
    #[error("nbd+unix:// needs ?socket=PATH")]
    NoSocket,
    /// A parameter that means nothing here.
    #[error("unknown parameter {key:?}")]
    UnknownParameter {
        /// Its name.
        key: String,
    },
    /// A percent sign without two hexadecimal digits, or `#`.
    #[error("a % must be followed by two hexadecimal digits, and # be written as %23")]
    Escape,
    /// A name that no server could have.
    #[error("an export's name is UTF-8 without NUL, at most {NAME_LEN_MAX} B")]
    Name,
}

impl NbdAddress {
    /// An export behind a unix socket.
    pub fn unix(socket: impl Into<PathBuf>, export: impl Into<String>) -> Self {
        Self {
            endpoint: Endpoint::Unix(socket.into()),
            export: export.into(),
        }
    }

    /// An export behind a TCP port.
    pub fn tcp(host: impl Into<String>, port: u16, export: impl Into<String>) -> Self {
        Self {
            endpoint: Endpoint::Tcp {
                host: host.into(),
                port,
            },
            export: export.into(),
        }
    }
}

impl FromStr for NbdAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let (scheme, rest) = text.split_once("://").ok_or(ParseAddressError::Scheme)?;
        if rest.contains('#') {
            return Err(ParseAddressError::Escape);
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, name) = rest.split_once('/').unwrap_or((rest, ""));
        let endpoint = match scheme {
            "nbd" => {
                parse_query(query, None)?;
                parse_authority(authority)?
            }
            "nbd+unix" if !authority.is_empty() => {
                return Err(ParseAddressError::HostBeforeSocket);
            }
            "nbd+unix" => {
                let mut socket = None;
                parse_query(query, Some(&mut socket))?;
                Endpoint::Unix(socket.ok_or(ParseAddressError::NoSocket)?)
            }
            "nbds" | "nbds+unix" => return Err(ParseAddressError::Tls),
            _ => return Err(ParseAddressError::Scheme),
        };
        let export = String::from_utf8(unescape(name)?).map_err(|_| ParseAddressError::Name)?;
        if export.len() > NAME_LEN_MAX || export.contains('\0') {
            return Err(ParseAddressError::Name);
        }
        Ok(Self { endpoint, export })
    }
}

/// The only parameter is `socket`, and only where one is wanted.
fn parse_query(
    query: &str,
    mut socket: Option<&mut Option<PathBuf>>,
) -> Result<(), ParseAddressError> {
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match &mut socket {
            Some(socket) if key == "socket" && !value.is_empty() => {
                **socket = Some(OsString::from_vec(unescape(value)?).into());
            }
            Some(_) if key == "socket" => return Err(ParseAddressError::NoSocket),
            _ => {
                return Err(ParseAddressError::UnknownParameter {
                    key: key.to_owned(),
                });
            }
        }
    }
    Ok(())
}

fn parse_authority(authority: &str) -> Result<Endpoint, ParseAddressError> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(ParseAddressError::Host)?;
            let port = match port.strip_prefix(':') {
                Some(port) => Some(port),
                None if port.is_empty() => None,
                None => return Err(ParseAddressError::Host),
            };
            (host, port)
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() || host.contains(['@', '%']) {
        return Err(ParseAddressError::Host);
    }
    let port = match port {
        None => PORT,
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => match port.parse() {
            Ok(port) if port > 0 => port,
            _ => return Err(ParseAddressError::Port),
        },
        Some(_) => return Err(ParseAddressError::Port),
    };
    Ok(Endpoint::Tcp {
        host: host.to_owned(),
        port,
    })
}

fn unescape(text: &str) -> Result<Vec<u8>, ParseAddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(rest.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        match (digit(), digit()) {
            (Some(high), Some(low)) => bytes.push(high << 4 | low),
            _ => return Err(ParseAddressError::Escape),
        }
    }
    Ok(bytes)
}

/// Writes what stands for itself in a name or a path, and escapes the rest.
fn escape(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|&byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
            write!(f, "{}", char::from(byte))
        }
        _ => write!(f, "%{byte:02X}"),
    })
}

impl fmt::Display for NbdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Endpoint::Unix(path) => {
                f.write_str("nbd+unix:///")?;
                escape(f, self.export.as_bytes())?;
                f.write_str("?socket=")?;
                escape(f, path.as_os_str().as_bytes())
            }
            Endpoint::Tcp { host, port } => {
                if host.contains(':') {
                    write!(f, "nbd://[{host}]:{port}/")?;
                } else {
                    write!(f, "nbd://{host}:{port}/")?;
                }
                escape(f, self.export.as_bytes())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> NbdAddress {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn the_examples_of_the_specification_are_understood() {
        let host = |export| NbdAddress::tcp("example.com", PORT, export);
        assert_eq!(parse("nbd://example.com/disk"), host("disk"));
        assert_eq!(parse("nbd://example.com/"), host(""));
        assert_eq!(parse("nbd://example.com"), host(""));
        assert_eq!(parse("nbd://example.com//disk"), host("/disk"));
        assert_eq!(
            parse("nbd://example.com/hello%20world"),
            host("hello world")
        );
        assert_eq!(
            parse("nbd+unix:///disk?socket=sock"),
            NbdAddress::unix("sock", "disk")
        );
        assert_eq!(
            parse("nbd+unix:///?socket=/run/nbd.sock"),
            NbdAddress::unix("/run/nbd.sock", "")
        );
    }

    #[test]
    fn ports_and_ipv6_addresses_are_understood() {
        assert_eq!(parse("nbd://h:7/d"), NbdAddress::tcp("h", 7, "d"));
        assert_eq!(parse("nbd://[::1]:7/d"), NbdAddress::tcp("::1", 7, "d"));
        assert_eq!(parse("nbd://[::1]"), NbdAddress::tcp("::1", PORT, ""));
    }

    #[test]
    fn an_address_reads_back_as_it_prints() {
        for address in [
            NbdAddress::unix("/run/every point/ä?&#%.sock", "a b?c=d&e#f%/ü"),
            NbdAddress::unix(OsString::from_vec(b"/tmp/\xff".to_vec()), ""),
            NbdAddress::tcp("::1", 10_809, "disk"),
            NbdAddress::tcp("host", 1, "//x"),
        ] {
            assert_eq!(address.to_string().parse(), Ok(address));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        use ParseAddressError as E;
        let key = || "tls-type".to_owned();
        for (text, error) in [
            ("", E::Scheme),
            ("/run/nbd.sock", E::Scheme),
            ("http://h/d", E::Scheme),
            ("nbds://h/d", E::Tls),
            ("nbds+unix:///?socket=s", E::Tls),
            ("nbd:///d", E::Host),
            ("nbd://user@h/d", E::Host),
            ("nbd://[::1/d", E::Host),
            ("nbd://[::1]7/d", E::Host),
            ("nbd://h:/d", E::Port),
            ("nbd://h:0/d", E::Port),
            ("nbd://h:+7/d", E::Port),
            ("nbd://h:65536/d", E::Port),
            ("nbd+unix://h/d?socket=s", E::HostBeforeSocket),
            ("nbd+unix:///d", E::NoSocket),
            ("nbd+unix:///d?socket=", E::NoSocket),
            ("nbd://h/d?tls-type=psk", E::UnknownParameter { key: key() }),
            (
                "nbd://h/d?socket=s",
                E::UnknownParameter {
                    key: "socket".to_owned(),
                },
            ),
            ("nbd://h/%4", E::Escape),
            ("nbd://h/%zz", E::Escape),
            ("nbd://h/a#b", E::Escape),
            ("nbd://h/%ff", E::Name),
            ("nbd://h/a%00b", E::Name),
        ] {
            assert_eq!(text.parse::<NbdAddress>(), Err(error), "{text}");
        }
    }
}
