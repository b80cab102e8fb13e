//! Azure Blob storage: which account, which endpoint, whose credential.
//!
//! What the configuration says counts before what the environment says, and one credential of the
//! configuration before all of the environment's: a server never shows another one than its file names.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::azure::{
    AzureConfigKey, AzureCredential, AzureCredentialProvider, MicrosoftAzure, MicrosoftAzureBuilder,
};
use object_store::client::StaticCredentialProvider;

use super::secret::{FileCredential, Kind, read_secret};
use super::{AccessError, authorities, below, once, patient};

/// How Azure Blob storage is reached. What is not set here is taken from the environment: the
/// `AZURE_STORAGE_*` variables that Azure's own tools read, and those of workload identities.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AzureAccess {
    /// The storage account.
    pub account: Option<String>,
    /// The blob endpoint, for sovereign clouds, private endpoints and Azurite. Default:
    /// `https://ACCOUNT.blob.core.windows.net`.
    pub endpoint: Option<String>,
    /// A file with the account's key.
    pub access_key_file: Option<PathBuf>,
    /// A file with a shared access signature. It is read again, so renew it there.
    pub sas_file: Option<PathBuf>,
    /// The directory of a service principal or workload identity.
    pub tenant_id: Option<String>,
    /// The application, or the managed identity where a machine has several.
    pub client_id: Option<String>,
    /// A file with the application's secret.
    pub client_secret_file: Option<PathBuf>,
    /// A file with the token of a workload identity.
    pub federated_token_file: Option<PathBuf>,
    /// Where tokens are asked for in a sovereign cloud. Default: `https://login.microsoftonline.com`.
    pub authority_host: Option<String>,
    /// A file with authorities, in PEM, that are trusted beside the system's: for private endpoints behind a
    /// proxy, and for emulators.
    pub ca_file: Option<PathBuf>,
}

/// Whose credential is shown to which endpoint, for clients that speak to it in other ways than a vault does.
#[derive(Clone)]
pub struct AzureCredentials {
    /// The storage account.
    pub account: String,
    /// Without a slash at its end.
    pub endpoint: String,
    /// Asked before each request: tokens and files are renewed.
    pub credentials: AzureCredentialProvider,
    /// Authorities that are trusted beside the system's.
    pub ca_pem: Option<Vec<u8>>,
}

/// The client of a container, and what it was made of.
#[derive(Debug)]
struct Client {
    store: MicrosoftAzure,
    account: String,
    endpoint: String,
    ca_pem: Option<Vec<u8>>,
}

/// What the environment says, and Azure's own tools understand.
#[derive(Default)]
struct Environment {
    account: Option<String>,
    endpoint: Option<String>,
    access_key: Option<String>,
    sas: Option<String>,
}

impl AzureAccess {
    /// The client of one container, at one prefix.
    ///
    /// # Errors
    ///
    /// What is missing or cannot be.
    pub(crate) fn store(
        &self,
        container: &str,
        prefix: &str,
    ) -> Result<Arc<dyn ObjectStore>, AccessError> {
        Ok(below(self.client(container)?.store, prefix))
    }

    /// The account, its endpoint and the credential for a container, as a vault in it has them.
    ///
    /// # Errors
    ///
    /// What is missing or cannot be.
    pub fn credentials(&self, container: &str) -> Result<AzureCredentials, AccessError> {
        let client = self.client(container)?;
        Ok(AzureCredentials {
            account: client.account,
            endpoint: client.endpoint,
            credentials: Arc::clone(client.store.credentials()),
            ca_pem: client.ca_pem,
        })
    }

    /// The authorities that are trusted beside the system's, in PEM.
    ///
    /// # Errors
    ///
    /// When their file cannot be read, or holds none.
    pub fn ca_pem(&self) -> Result<Option<Vec<u8>>, AccessError> {
        let trusted = authorities("azure.ca_file", self.ca_file.as_deref())?;
        Ok(trusted.map(|trusted| trusted.pem))
    }

    fn client(&self, container: &str) -> Result<Client, AccessError> {
        let environment = self.environment_beside(|name| std::env::var(name).ok())?;
        let account = self.account.clone().or(environment.account.clone());
        let account = account.ok_or(AccessError::Unset {
            what: "the storage account",
            variable: "AZURE_STORAGE_ACCOUNT",
            key: "azure.account",
        })?;
        let mut builder = match self.has_credential() || environment.has_credential() {
            true => MicrosoftAzureBuilder::new(),
            // Service principals, workload and managed identities: the client knows their variables.
            false => MicrosoftAzureBuilder::from_env()
                .with_use_emulator(false)
                .with_skip_signature(false),
        };
        let endpoint = self.endpoint.clone().or(environment.endpoint.clone());
        // The client may know a variable of its own for it; the same is believed of that as of the others.
        let is_named = self.account.is_some() || self.has_credential();
        let endpoint = match endpoint {
            None if !is_named => builder.get_config_value(&AzureConfigKey::Endpoint),
            endpoint => endpoint,
        };
        let endpoint = endpoint.map_or_else(
            || format!("https://{account}.blob.core.windows.net"),
            |endpoint| endpoint.trim_end_matches('/').to_owned(),
        );
        let trusted = authorities("azure.ca_file", self.ca_file.as_deref())?;
        let mut options = patient().with_allow_http(endpoint.starts_with("http://"));
        if let Some(trusted) = &trusted {
            options = trusted.trusted_by(options);
        }
        if self.has_credential() {
            builder = self.with_credential(builder)?;
        } else if let Some(credential) = environment.credential()? {
            builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(credential)));
        }
        let store = builder
            .with_endpoint(endpoint.clone())
            .with_account(&account)
            .with_container_name(container)
            .with_retry(once())
            .with_client_options(options)
            .build()
            .map_err(AccessError::Client)?;
        Ok(Client {
            store,
            account,
            endpoint,
            ca_pem: trusted.map(|trusted| trusted.pem),
        })
    }

    /// What the environment has to say beside the configuration. Where that is of another account, it is nothing;
    /// and an endpoint is believed only where the configuration names neither account nor credential: no secret
    /// is shown to whom it was not made for.
    fn environment_beside(
        &self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Environment, AccessError> {
        if self.account.is_some() && self.has_credential() {
            return Ok(Environment::default());
        }
        let mut found = Environment::read(variable)?;
        if let (Some(own), Some(other)) = (&self.account, &found.account)
            && own != other
        {
            return Ok(Environment::default());
        }
        if self.account.is_some() || self.has_credential() {
            found.endpoint = None;
        }
        Ok(found)
    }

    fn has_credential(&self) -> bool {
        self.access_key_file.is_some()
            || self.sas_file.is_some()
            || self.client_id.is_some()
            || self.tenant_id.is_some()
            || self.client_secret_file.is_some()
            || self.federated_token_file.is_some()
    }

    /// The one credential that the configuration names.
    fn with_credential(
        &self,
        builder: MicrosoftAzureBuilder,
    ) -> Result<MicrosoftAzureBuilder, AccessError> {
        let files = [
            &self.access_key_file,
            &self.sas_file,
            &self.client_secret_file,
            &self.federated_token_file,
        ];
        if 1 < files.iter().filter(|file| file.is_some()).count() {
            return Err(AccessError::Setting {
                key: "azure",
                rule: "name one credential: access_key_file, sas_file, client_secret_file or federated_token_file",
            });
        }
        if let Some(path) = &self.access_key_file {
            let credential = FileCredential::open("azure.access_key_file", path, Kind::AccessKey)?;
            return Ok(builder.with_credentials(Arc::new(credential)));
        }
        if let Some(path) = &self.sas_file {
            let credential = FileCredential::open("azure.sas_file", path, Kind::Sas)?;
            return Ok(builder.with_credentials(Arc::new(credential)));
        }
        let of_application =
            self.client_secret_file.is_some() || self.federated_token_file.is_some();
        if of_application && (self.tenant_id.is_none() || self.client_id.is_none()) {
            return Err(AccessError::Setting {
                key: "azure",
                rule: "an application is named by tenant_id and client_id",
            });
        }
        let mut builder = builder;
        let texts = [
            (AzureConfigKey::AuthorityId, &self.tenant_id),
            (AzureConfigKey::ClientId, &self.client_id),
            (AzureConfigKey::AuthorityHost, &self.authority_host),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                builder = builder.with_config(key, text);
            }
        }
        if let Some(path) = &self.client_secret_file {
            let secret = read_secret("azure.client_secret_file", path)?;
            builder = builder.with_config(AzureConfigKey::ClientSecret, secret);
        }
        if let Some(path) = &self.federated_token_file {
            let path = path.to_string_lossy();
            builder = builder.with_config(AzureConfigKey::FederatedTokenFile, path);
        }
        Ok(builder)
    }
}

impl fmt::Debug for AzureCredentials {
    /// Without the credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureCredentials")
            .field("account", &self.account)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Environment {
    /// Without the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("account", &self.account)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Environment {
    /// Single variables count before a connection string.
    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, AccessError> {
        let first = |names: &[&str]| names.iter().find_map(|name| variable(name));
        let mut found = match variable("AZURE_STORAGE_CONNECTION_STRING") {
            Some(text) => Self::of_connection_string(&text)?,
            None => Self::default(),
        };
        let singles = [
            (
                &mut found.account,
                &["AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"][..],
            ),
            (
                &mut found.endpoint,
                &["AZURE_STORAGE_ENDPOINT", "AZURE_STORAGE_BLOB_ENDPOINT"],
            ),
            (
                &mut found.access_key,
                &["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"],
            ),
            (
                &mut found.sas,
                &["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"],
            ),
        ];
        for (place, names) in singles {
            let single = first(names);
            let differs = single.is_some() && place.is_some() && single != *place;
            if differs && names[0] == "AZURE_STORAGE_ACCOUNT" {
                return Err(AccessError::Setting {
                    key: "AZURE_STORAGE_ACCOUNT",
                    rule: "AZURE_STORAGE_CONNECTION_STRING names another account: unset one of them",
                });
            }
            *place = single.or(place.take());
        }
        Ok(found)
    }

    /// Source: Azure, "Configure Azure Storage connection strings".
    fn of_connection_string(text: &str) -> Result<Self, AccessError> {
        let broken = || AccessError::Setting {
            key: "AZURE_STORAGE_CONNECTION_STRING",
            rule: "it is `Name=value` pairs joined by `;`, with AccountName or BlobEndpoint among them",
        };
        let mut found = Self::default();
        let (mut protocol, mut suffix) = ("https", "core.windows.net");
        for pair in text.split(';').filter(|pair| !pair.trim().is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(broken)?;
            match name.trim() {
                "AccountName" => found.account = Some(value.to_owned()),
                "AccountKey" => found.access_key = Some(value.to_owned()),
                "SharedAccessSignature" => found.sas = Some(value.to_owned()),
                "BlobEndpoint" => found.endpoint = Some(value.trim_end_matches('/').to_owned()),
                "DefaultEndpointsProtocol" => protocol = value,
                "EndpointSuffix" => suffix = value,
                _ => {}
            }
        }
        match (&found.account, &found.endpoint) {
            (Some(account), None) => {
                found.endpoint = Some(format!("{protocol}://{account}.blob.{suffix}"));
            }
            // An endpoint without a name for the account has it in its host, or as its path (Azurite).
            (None, Some(endpoint)) => {
                let (_, rest) = endpoint.split_once("://").ok_or_else(broken)?;
                let account = match rest.split_once('/') {
                    Some((_, path)) => path,
                    None => rest.split('.').next().unwrap_or(rest),
                };
                found.account = Some(account.to_owned());
            }
            (Some(_), Some(_)) => {}
            (None, None) => return Err(broken()),
        }
        Ok(found)
    }

    fn has_credential(&self) -> bool {
        self.access_key.is_some() || self.sas.is_some()
    }

    fn credential(&self) -> Result<Option<AzureCredential>, AccessError> {
        if let Some(key) = &self.access_key {
            return Kind::AccessKey
                .credential("AZURE_STORAGE_KEY", key)
                .map(Some);
        }
        let sas = self.sas.as_ref();
        sas.map(|sas| Kind::Sas.credential("AZURE_STORAGE_SAS_TOKEN", sas))
            .transpose()
    }
}

#[cfg(test)]
mod tests;
