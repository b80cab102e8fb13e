//! The URL of one blob with the right to write it: what `az disk grant-access` gives for a managed disk.
//!
//! ```text
//! https://md-impexp-abc.blob.core.windows.net/container/abcd?sv=…&sr=b&sig=…
//! └──────────────── endpoint ───────────────┘ └─ container, blob ─┘ └─ the right ─┘
//! ```
//!
//! The URL is a secret: no error repeats any of it.

use std::sync::Arc;

use object_store::azure::AzureCredential;
use object_store::client::StaticCredentialProvider;

use super::{AzureAccount, AzurePages, PagesConfig};

/// Why a text is no URL that a blob can be written by.
#[derive(Debug, thiserror::Error)]
pub enum SasUrlError {
    /// Not HTTPS, and not a loopback address, where tests are.
    #[error(
        "it does not begin with https://: it is the whole URL that `az disk grant-access` prints as accessSas"
    )]
    Scheme,
    /// No query with a signature.
    #[error(
        "it has no signature (sig=…) behind the '?': copy all of the URL, in quotes in a shell"
    )]
    NoSignature,
    /// No container and blob in its path.
    #[error("it names no blob: the path of its URL is /container/blob")]
    NoBlob,
    /// A character that no URL has.
    #[error("it has a character that no URL has: one line, nothing but the URL")]
    Character,
    /// The client refuses the settings.
    #[error("the settings make no client")]
    Client(#[source] object_store::Error),
}

impl AzurePages {
    /// The page blob that a URL with a shared access signature names. It exists already, and its length is what it
    /// is.
    ///
    /// # Errors
    ///
    /// See [`SasUrlError`].
    pub fn of_sas_url(url: &str, config: PagesConfig) -> Result<Self, SasUrlError> {
        let url = url.trim();
        let is_url = |byte: u8| byte.is_ascii_graphic() && !br#""<>\^`{|}"#.contains(&byte);
        if !url.bytes().all(is_url) {
            return Err(SasUrlError::Character);
        }
        let (place, query) = url.split_once('?').ok_or(SasUrlError::NoSignature)?;
        let (scheme, rest) = place.split_once("://").ok_or(SasUrlError::Scheme)?;
        let (host, path) = rest.split_once('/').ok_or(SasUrlError::NoBlob)?;
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let is_loopback = matches!(name, "127.0.0.1" | "localhost" | "[::1]");
        if scheme != "https" && !(scheme == "http" && is_loopback) || name.is_empty() {
            return Err(SasUrlError::Scheme);
        }
        let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        let mut signatures = pairs.iter().filter(|(name, _)| name == "sig");
        if signatures.all(|(_, value)| value.is_empty()) {
            return Err(SasUrlError::NoSignature);
        }
        // The emulators have the account before the container.
        let (parent, blob) = path.rsplit_once('/').ok_or(SasUrlError::NoBlob)?;
        let (account, container) = match parent.rsplit_once('/') {
            Some((account, container)) => (format!("/{account}"), container),
            None => (String::new(), parent),
        };
        if blob.is_empty() || container.is_empty() {
            return Err(SasUrlError::NoBlob);
        }
        let credential = StaticCredentialProvider::new(AzureCredential::SASToken(pairs));
        let endpoint = format!("{scheme}://{host}{account}");
        // Nothing is signed with the account's name here.
        let account = AzureAccount::new(name, endpoint, Arc::new(credential), config);
        let account = account.map_err(SasUrlError::Client)?;
        Ok(account.pages(container, blob))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<AzurePages, SasUrlError> {
        AzurePages::of_sas_url(url, PagesConfig::default())
    }

    #[test]
    fn the_url_of_a_managed_disk_names_endpoint_container_and_blob() {
        let url = "https://md-impexp-t0.blob.core.windows.net/w2c3mj0ksfgl/abcd?sv=2017-04-17&sr=b&si=5&sig=a%2Bb%3D\n";
        let pages = parse(url).unwrap();
        assert_eq!((pages.container(), pages.name()), ("w2c3mj0ksfgl", "abcd"));
        assert_eq!(
            pages.url(),
            "https://md-impexp-t0.blob.core.windows.net/w2c3mj0ksfgl/abcd"
        );
        let emulated = parse("http://127.0.0.1:10000/everpoint/disks/abcd?sig=x").unwrap();
        assert_eq!(
            emulated.url(),
            "http://127.0.0.1:10000/everpoint/disks/abcd"
        );
    }

    #[test]
    fn what_is_no_such_url_is_refused_and_no_secret_is_told() {
        for (url, said) in [
            (
                "http://md-1.blob.core.windows.net/c/d?sig=secret",
                "https://",
            ),
            ("ftp://127.0.0.1/c/d?sig=secret", "https://"),
            ("https://md-1.blob.core.windows.net/c/d", "no signature"),
            (
                "https://md-1.blob.core.windows.net/c/d?sv=1&sig=",
                "no signature",
            ),
            ("https://md-1.blob.core.windows.net/d?sig=secret", "no blob"),
            ("https://md-1.blob.core.windows.net?sig=secret", "no blob"),
            (
                "https://md-1.blob.core.windows.net/c/?sig=secret",
                "no blob",
            ),
            (
                "https://md-1/c/d?sig=secret https://md-2/c/d",
                "nothing but the URL",
            ),
            (
                "{\"accessSas\": \"https://md-1/c/d?sig=secret\"}",
                "nothing but the URL",
            ),
            ("", "no signature"),
        ] {
            let refused = parse(url).unwrap_err().to_string();
            assert!(refused.contains(said), "{url}: {refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
    }
}
