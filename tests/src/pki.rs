//! The certificates of a sandbox.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A certificate and its key, both PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub cert: String,
    /// The private key.
    pub key: String,
}

impl Pair {
    /// Writes `NAME.crt` and `NAME.key` and returns their paths.
    pub fn write(&self, dir: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
        let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        write_private(&cert, &self.cert)?;
        write_private(&key, &self.key)?;
        Ok((cert, key))
    }
}

/// A certificate authority that lives as long as its sandbox.
pub struct Authority {
    cert: String,
    key: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "kubectl-upgrade sandbox");
        let key = KeyPair::generate().context("no key for the authority")?;
        let cert = params.self_signed(&key).context("no certificate for the authority")?.pem();
        Ok(Self { cert, key: key.serialize_pem(), issuer: Issuer::new(params, key) })
    }

    /// The authority's certificate, PEM.
    pub fn cert(&self) -> &str {
        &self.cert
    }

    /// The authority's certificate and key.
    pub(crate) fn pair(&self) -> Pair {
        Pair { cert: self.cert.clone(), key: self.key.clone() }
    }

    /// A client's certificate. Certificates made by rcgen hold two groups at the most.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<Pair> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        // rcgen keeps one value per attribute type; the same type by its number counts as another.
        let kinds = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
        if groups.len() > kinds.len() {
            bail!("a client certificate takes {} groups, not {}", kinds.len(), groups.len());
        }
        for (kind, group) in kinds.into_iter().zip(groups) {
            params.distinguished_name.push(kind, *group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// A server's certificate for these names and addresses; good for a client as well.
    pub fn server(&self, names: &[&str]) -> Result<Pair> {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let common = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names).context("a name for a certificate")?;
        params.distinguished_name.push(DnType::CommonName, common);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Pair> {
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().context("no key")?;
        let cert = params.signed_by(&key, &self.issuer).context("no certificate")?;
        Ok(Pair { cert: cert.pem(), key: key.serialize_pem() })
    }
}

/// The key that signs service account tokens, and its public half: `(private, public)`.
pub(crate) fn signing_key() -> Result<(String, String)> {
    let key = KeyPair::generate().context("no key for service accounts")?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

/// Writes a file that only its owner reads.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
