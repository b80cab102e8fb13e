//! S3 and what speaks like it: which region or endpoint, whose credential.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};

use super::secret::read_secret;
use super::{AccessError, authorities, below, once, patient};

/// How S3 is reached. What is not set here is taken from the environment: the `AWS_*` variables, web
/// identities, and the instance's own.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Access {
    /// The bucket's region. Default: `AWS_REGION`, else `us-east-1`.
    pub region: Option<String>,
    /// Another service than AWS's own. It must honour `If-None-Match: *`; each start asks it.
    pub endpoint: Option<String>,
    /// The id of an access key.
    pub access_key_id: Option<String>,
    /// A file with its secret.
    pub secret_access_key_file: Option<PathBuf>,
    /// A file with authorities, in PEM, that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether the bucket is part of the host's name. Default false.
    pub virtual_hosted: bool,
}

impl S3Access {
    /// The client of one bucket, at one prefix.
    ///
    /// # Errors
    ///
    /// What is missing or cannot be.
    pub(crate) fn store(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> Result<Arc<dyn ObjectStore>, AccessError> {
        let mut builder = self.with_credential()?;
        let named = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
        let named = || named.iter().find_map(|name| std::env::var(name).ok());
        let endpoint = self.endpoint.clone().or_else(named);
        let mut options = patient();
        if let Some(trusted) = authorities("s3.ca_file", self.ca_file.as_deref())? {
            options = trusted.trusted_by(options);
        }
        if let Some(endpoint) = endpoint {
            if self.virtual_hosted {
                return Err(AccessError::Setting {
                    key: "s3.virtual_hosted",
                    rule: "goes with AWS's own hosts only: leave it out where an endpoint is named",
                });
            }
            options = options.with_allow_http(endpoint.starts_with("http://"));
            let endpoint = endpoint.trim_end_matches('/');
            builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
        }
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        let client = builder
            .with_bucket_name(bucket)
            .with_virtual_hosted_style_request(self.virtual_hosted)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(once())
            .with_client_options(options)
            .build()
            .map_err(AccessError::Client)?;
        Ok(below(client, prefix))
    }

    /// What the configuration names, or else what the environment has; never a part of each.
    fn with_credential(&self) -> Result<AmazonS3Builder, AccessError> {
        match (&self.access_key_id, &self.secret_access_key_file) {
            (Some(id), Some(path)) => {
                let secret = read_secret("s3.secret_access_key_file", path)?;
                let mut builder = AmazonS3Builder::new()
                    .with_access_key_id(id)
                    .with_secret_access_key(secret);
                let named = ["AWS_REGION", "AWS_DEFAULT_REGION"];
                let region = named.iter().find_map(|name| std::env::var(name).ok());
                if let Some(region) = region {
                    builder = builder.with_region(region);
                }
                Ok(builder)
            }
            (None, None) => Ok(AmazonS3Builder::from_env()),
            _ => Err(AccessError::Setting {
                key: "s3",
                rule: "access_key_id and secret_access_key_file belong together",
            }),
        }
    }
}
