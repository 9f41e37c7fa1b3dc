//! Certificates and kubeconfigs of a local cluster: one CA, one client certificate per role.
//!
//! Everything is made new for each cluster and lies in its state folder.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_RSA_SHA256,
};
use std::path::PathBuf;
use time::{Duration, OffsetDateTime};

use crate::state::State;

/// How long the certificates of a cluster are valid; a cluster for tests lives for hours.
const VALIDITY: Duration = Duration::days(365);

/// The cluster's certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate with its key, both in PEM.
pub struct Signed {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Authority {
    /// A new authority.
    pub fn generate() -> Result<Self> {
        let mut params = params("dapr-e2e-ca", None, &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().context("generate the cluster CA's key")?;
        let certificate = params.self_signed(&key).context("sign the cluster CA")?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// The authority's certificate in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for a server with these names and addresses; it may also act as a client.
    pub fn server(&self, name: &str, names: &[&str]) -> Result<Signed> {
        let mut params = params(name, None, names)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    /// A client certificate for a user in a group.
    pub fn client(&self, user: &str, group: Option<&str>) -> Result<Signed> {
        let mut params = params(user, group, &[])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Result<Signed> {
        let key = KeyPair::generate().context("generate a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("sign a certificate")?.pem();
        Ok(Signed { certificate, key: key.serialize_pem() })
    }

    /// Writes a kubeconfig for a user in a group, who reaches the API server at `server`.
    pub fn kubeconfig(&self, state: &State, role: &Role<'_>, server: &str) -> Result<PathBuf> {
        let client = self.client(role.user, role.group)?;
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: dapr-e2e\n\
             clusters:\n- name: dapr-e2e\n  cluster:\n    server: {server}\n    certificate-authority-data: {}\n\
             users:\n- name: {user}\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n\
             contexts:\n- name: dapr-e2e\n  context:\n    cluster: dapr-e2e\n    user: {user}\n",
            STANDARD.encode(&self.certificate),
            STANDARD.encode(&client.certificate),
            STANDARD.encode(&client.key),
            user = role.user,
        );
        state.write_secret(role.file, text)
    }
}

/// Whom a kubeconfig is for.
pub struct Role<'a> {
    /// File in the state folder.
    pub file: &'a str,
    /// Kubernetes user name.
    pub user: &'a str,
    /// Kubernetes group.
    pub group: Option<&'a str>,
}

/// A key for service account tokens: RSA, as most clusters have it.
pub fn service_account_key() -> Result<String> {
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).context("generate the service account key")?;
    Ok(key.serialize_pem())
}

fn params(name: &str, group: Option<&str>, names: &[&str]) -> Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
    let mut params = CertificateParams::new(names).context("server names of a certificate")?;
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::minutes(5);
    params.not_after = now + VALIDITY;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
