//! Who may ask: the API server's client certificate, where the flags name one.
//!
//! A CA of a cluster signs for many, so a signature alone says little: a name has to be on the list.

use anyhow::{Context, Result, anyhow, bail};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// The flags about clients.
#[derive(Clone, Debug)]
pub struct Clients {
    /// PEM file of the CAs that sign for them; read once, at the start.
    pub ca: PathBuf,
    /// Common names and DNS names, of which a certificate must have one.
    pub names: Vec<String>,
}

impl Clients {
    /// What checks them. A handshake without a certificate that passes fails.
    pub fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>> {
        let place = || format!("--client-ca-file {}", self.ca.display());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(roots(&self.ca).with_context(place)?);
        let inner = WebPkiClientVerifier::builder_with_provider(roots, provider)
            .build()
            .with_context(place)?;
        Ok(Arc::new(Named { inner, names: self.names.clone() }))
    }
}

fn roots(file: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(file).map_err(|e| anyhow!("{e}"))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|e| anyhow!("{e}"))?;
        roots.add(certificate).context("a certificate in it is no CA")?;
    }
    if roots.is_empty() {
        bail!("there is no PEM certificate in it");
    }
    Ok(roots)
}

#[derive(Debug)]
struct Named {
    inner: Arc<dyn ClientCertVerifier>,
    names: Vec<String>,
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(certificate, intermediates, now)?;
        let has = names(certificate);
        if has.iter().any(|name| self.names.contains(name)) {
            return Ok(verified);
        }
        tracing::warn!(names = ?has, "refused a client whose name is not among --client-name");
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Common names and DNS names; none where the certificate cannot be read.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let mut names: Vec<String> = common.map(str::to_owned).collect();
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        names.extend(extension.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        }));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    };

    type Ca = CertifiedIssuer<'static, KeyPair>;

    fn ca() -> Ca {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA")
    }

    fn client(ca: &Ca, common: &str, dns: &[String]) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(dns).expect("names");
        params.distinguished_name.push(DnType::CommonName, common);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        params.signed_by(&key, ca).expect("a certificate").der().clone()
    }

    #[test]
    fn a_name_on_the_list_and_the_right_ca_are_both_needed() {
        let provider = rustls::crypto::ring::default_provider();
        let (ours, other) = (ca(), ca());
        let mut roots = RootCertStore::empty();
        roots.add(ours.der().clone()).expect("a CA");
        let inner = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.into())
            .build()
            .expect("a verifier");
        let names = ["kube-apiserver", "api.example"].map(str::to_owned).to_vec();
        let verifier = Named { inner, names };
        let passes = |certificate: CertificateDer<'_>| {
            verifier.verify_client_cert(&certificate, &[], UnixTime::now()).is_ok()
        };
        assert!(passes(client(&ours, "kube-apiserver", &[])));
        assert!(passes(client(&ours, "x", &["api.example".to_owned()])));
        assert!(!passes(client(&ours, "kube-apiserver2", &["example".to_owned()])));
        assert!(!passes(client(&other, "kube-apiserver", &[])));
        assert!(verifier.client_auth_mandatory());
    }

    #[test]
    fn a_file_without_a_ca_says_so() {
        let missing = Clients { ca: "/no/such/file".into(), names: vec!["a".to_owned()] };
        let said = missing.verifier().map(drop).expect_err("no file");
        assert!(said.to_string().contains("--client-ca-file /no/such/file"), "{said}");
    }
}
