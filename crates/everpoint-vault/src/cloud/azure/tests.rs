//! What the configuration and the environment say, and what of it is refused; secrets that are renewed.

use std::os::unix::fs::PermissionsExt as _;

use object_store::client::CredentialProvider as _;

use super::*;

fn environment(pairs: &[(&str, &str)]) -> Result<Environment, AccessError> {
    Environment::read(|name| {
        let found = pairs.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    })
}

#[test]
fn a_connection_string_says_account_endpoint_and_credential() {
    let text = "DefaultEndpointsProtocol=https;AccountName=disks;AccountKey=a2V5==;EndpointSuffix=core.chinacloudapi.cn";
    let found = environment(&[("AZURE_STORAGE_CONNECTION_STRING", text)]).unwrap();
    assert_eq!(found.account.as_deref(), Some("disks"));
    assert_eq!(
        found.endpoint.as_deref(),
        Some("https://disks.blob.core.chinacloudapi.cn")
    );
    assert_eq!(found.access_key.as_deref(), Some("a2V5=="));
}

#[test]
fn an_endpoint_names_the_account_in_its_host_or_its_path() {
    for (endpoint, account) in [
        ("https://disks.blob.core.windows.net/", "disks"),
        (
            "http://127.0.0.1:10000/devstoreaccount1",
            "devstoreaccount1",
        ),
    ] {
        let text = format!("BlobEndpoint={endpoint};SharedAccessSignature=sv=1&sig=x");
        let found = environment(&[("AZURE_STORAGE_CONNECTION_STRING", &text)]).unwrap();
        assert_eq!(found.account.as_deref(), Some(account), "{endpoint}");
        assert_eq!(found.sas.as_deref(), Some("sv=1&sig=x"));
    }
}

#[test]
fn a_variable_beside_a_connection_string_may_add_and_not_name_another_account() {
    let text = "AccountName=one;AccountKey=a";
    let found = environment(&[
        ("AZURE_STORAGE_CONNECTION_STRING", text),
        ("AZURE_STORAGE_ACCOUNT", "two"),
    ]);
    let message = found.unwrap_err().to_string();
    assert!(message.contains("names another account"), "{message}");
    let found = environment(&[
        ("AZURE_STORAGE_CONNECTION_STRING", text),
        ("AZURE_STORAGE_ACCOUNT", "one"),
        ("AZURE_STORAGE_KEY", "b"),
    ]);
    assert_eq!(found.unwrap().access_key.as_deref(), Some("b"));
}

/// A secret goes to nobody but whom it was made for: nothing is mixed from two accounts.
#[test]
fn the_environment_adds_nothing_of_another_account() {
    let other = "BlobEndpoint=https://two.example.org;AccountName=two;SharedAccessSignature=sig=x";
    let variable = |name: &str| (name == "AZURE_STORAGE_CONNECTION_STRING").then(|| other.into());
    let of = |account: Option<&str>, sas_file: Option<&str>| {
        let access = AzureAccess {
            account: account.map(str::to_owned),
            sas_file: sas_file.map(PathBuf::from),
            ..AzureAccess::default()
        };
        access.environment_beside(variable).unwrap()
    };
    let found = of(Some("one"), None);
    assert!(found.endpoint.is_none() && !found.has_credential());
    let found = of(Some("two"), None);
    assert!(found.endpoint.is_none() && found.has_credential());
    let found = of(Some("two"), Some("/vault.sas"));
    assert!(found.account.is_none() && !found.has_credential());
    let found = of(None, Some("/vault.sas"));
    assert!(found.account.as_deref() == Some("two") && found.endpoint.is_none());
    let found = of(None, None);
    assert_eq!(found.endpoint.as_deref(), Some("https://two.example.org"));
}

#[test]
fn a_text_that_is_no_connection_string_is_refused() {
    for text in ["nonsense", "AccountKey=a2V5", "BlobEndpoint=nowhere"] {
        let refused = environment(&[("AZURE_STORAGE_CONNECTION_STRING", text)]);
        let message = refused.unwrap_err().to_string();
        assert!(
            message.starts_with("AZURE_STORAGE_CONNECTION_STRING: "),
            "{message}"
        );
    }
}

#[test]
fn what_is_missing_is_named_with_its_variable_and_its_key() {
    let refused = AzureAccess {
        access_key_file: Some("/nowhere".into()),
        account: Some("disks".into()),
        ..AzureAccess::default()
    };
    let message = refused.client("vault").unwrap_err().to_string();
    assert_eq!(
        message,
        "azure.access_key_file: \"/nowhere\" cannot be read"
    );
}

#[test]
fn two_credentials_are_one_too_many() {
    let access = AzureAccess {
        account: Some("disks".into()),
        access_key_file: Some("/a".into()),
        sas_file: Some("/b".into()),
        ..AzureAccess::default()
    };
    let message = access.client("vault").unwrap_err().to_string();
    assert!(message.contains("name one credential"), "{message}");
}

#[test]
fn a_secret_that_others_can_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("account.key");
    std::fs::write(&path, "a2V5").unwrap();
    let access = AzureAccess {
        account: Some("disks".into()),
        access_key_file: Some(path.clone()),
        ..AzureAccess::default()
    };
    for (mode, refused) in [(0o644, true), (0o640, true), (0o600, false), (0o400, false)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let opened = access.client("vault");
        assert_eq!(
            matches!(opened, Err(AccessError::ReadableByOthers { .. })),
            refused,
            "{mode:o}: {opened:?}"
        );
        assert_eq!(opened.is_ok(), !refused);
    }
}

#[tokio::test]
async fn a_sas_that_was_renewed_in_its_file_counts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vault.sas");
    let write = |text: &str| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("?sv=1&sig=old%3D");
    let mut credential = FileCredential::open("azure.sas_file", &path, Kind::Sas).unwrap();
    let signature = async |credential: &FileCredential| {
        let found = credential.get_credential().await.unwrap();
        let AzureCredential::SASToken(pairs) = &*found else {
            panic!("{found:?} is no SAS");
        };
        pairs
            .iter()
            .find(|(name, _)| name == "sig")
            .unwrap()
            .1
            .clone()
    };
    assert_eq!(signature(&credential).await, "old=");
    write("sv=1&sig=new");
    assert_eq!(
        signature(&credential).await,
        "old=",
        "it is not read at each request"
    );
    credential.make_old();
    assert_eq!(signature(&credential).await, "new");
    // Half replaced: what was last whole counts on.
    write("sv=1");
    credential.make_old();
    assert_eq!(signature(&credential).await, "new");
}

#[tokio::test]
async fn who_speaks_to_an_account_in_another_way_has_the_credential_of_its_vaults() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("account.key");
    std::fs::write(&path, "a2V5").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut access = AzureAccess {
        account: Some("disks".into()),
        access_key_file: Some(path),
        ..AzureAccess::default()
    };
    let found = access.credentials("replicas").unwrap();
    assert_eq!(found.account, "disks");
    assert_eq!(found.endpoint, "https://disks.blob.core.windows.net");
    let credential = found.credentials.get_credential().await.unwrap();
    assert!(matches!(*credential, AzureCredential::AccessKey(_)));
    access.endpoint = Some("http://127.0.0.1:10000/disks/".into());
    let found = access.credentials("replicas").unwrap();
    assert_eq!(found.endpoint, "http://127.0.0.1:10000/disks");
}

#[test]
fn a_file_without_authorities_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let mut access = AzureAccess {
        account: Some("disks".into()),
        ca_file: Some(path.clone()),
        ..AzureAccess::default()
    };
    let message = access.client("vault").unwrap_err().to_string();
    assert!(message.starts_with("azure.ca_file: "), "{message}");
    std::fs::write(&path, "nothing").unwrap();
    let message = access.client("vault").unwrap_err().to_string();
    let expected = "azure.ca_file: it has to hold certificates of authorities, in PEM";
    assert_eq!(message, expected);
    access.ca_file = None;
    assert!(access.client("vault").unwrap().ca_pem.is_none());
}
