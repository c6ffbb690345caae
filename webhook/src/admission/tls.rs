//! The serving certificate: made, renewed by wall clock, and its CA told to the API server.

use super::Settings;
use super::authority::{Authority, Leaf};
use super::clients::Clients;
use anyhow::{Context, Result, anyhow, bail};
use arc_swap::ArcSwapOption;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use upgrade_core::api::FIELD_MANAGER;

/// Secret of our own namespace that holds the CA.
const SECRET: &str = "upgrade-webhook-ca";
/// How often the wall clock and the API server are looked at. Clocks jump and machines sleep, so
/// no timer is ever set for "in four days".
const TICK: Duration = Duration::from_secs(15);
/// The same while something is missing.
const RETRY: Duration = Duration::from_secs(2);

/// The certificate that is served, swapped under running connections.
#[derive(Clone, Debug, Default)]
pub struct Certificates(Arc<ArcSwapOption<CertifiedKey>>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// TLS 1.2 and 1.3 with whatever certificate is current, for whoever asks or for these clients.
pub fn config(
    certificates: &Certificates,
    clients: Option<&Clients>,
) -> Result<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choosing TLS versions")?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients.verifier()?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates.clone()));
    // The API server caches no session, so tickets would be made for nobody.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// What is served now, and until when.
struct Serving {
    signed_by: String,
    renew: i64,
}

/// Keeps certificate, CA and webhook configurations in step until `stop` is cancelled.
pub async fn keep(settings: Arc<Settings>, certificates: Certificates, stop: CancellationToken) {
    let mut serving = None;
    loop {
        let wait = match tick(&settings, &certificates, &mut serving).await {
            Ok(()) => TICK,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "certificates are not in order yet");
                RETRY
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn tick(
    settings: &Settings,
    certificates: &Certificates,
    serving: &mut Option<Serving>,
) -> Result<()> {
    let now = jiff::Timestamp::now().as_second();
    let authority = authority(settings, now).await?;
    let fine = |s: &Serving| authority.signs_like(&s.signed_by) && now < s.renew;
    if !serving.as_ref().is_some_and(fine) {
        let leaf = authority.leaf(&settings.sans, now)?;
        certificates.0.store(Some(Arc::new(certified(&leaf)?)));
        settings.metrics.certificate_until(leaf.until);
        let signed_by = authority.certificate().to_owned();
        *serving = Some(Serving { signed_by, renew: leaf.renew });
        tracing::info!(names = ?settings.sans, until = leaf.until, "new serving certificate");
    }
    let bundle = authority.bundle(now);
    let injected = inject(settings, bundle.as_bytes()).await;
    settings.metrics.injected.store(injected.is_ok(), Ordering::Relaxed);
    injected
}

fn certified(leaf: &Leaf) -> Result<CertifiedKey> {
    let certificate = CertificateDer::from_pem_slice(leaf.certificate.as_bytes())
        .map_err(|e| anyhow!("reading our certificate: {e}"))?;
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes())
        .map_err(|e| anyhow!("reading our key: {e}"))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key).context("using our key")?;
    Ok(CertifiedKey::new(vec![certificate], key))
}

/// The CAs of the Secret, made and rotated by whichever replica is first.
async fn authority(settings: &Settings, now: i64) -> Result<Authority> {
    let api: Api<Secret> = Api::namespaced(settings.client.clone(), &settings.namespace);
    let place = format!("Secret {}/{SECRET}", settings.namespace);
    let Some(secret) = api.get_opt(SECRET).await.with_context(|| format!("reading {place}"))?
    else {
        let first = Authority::new(now)?;
        let secret = Secret {
            metadata: ObjectMeta { name: Some(SECRET.to_owned()), ..ObjectMeta::default() },
            data: Some(first.write()),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        };
        let options = PostParams { field_manager: Some(FIELD_MANAGER.into()), dry_run: false };
        // Another replica may be first; the next tick then reads what it made.
        api.create(&options, &secret).await.with_context(|| format!("creating {place}"))?;
        tracing::info!(secret = place, "made a CA");
        return Ok(first);
    };
    let data = secret.data.clone().unwrap_or_default();
    let known = Authority::read(&data);
    if known.is_none() && !data.is_empty() {
        tracing::warn!(secret = place, "the CA cannot be read and is made anew");
    }
    let due = match &known {
        Some(known) => known.due(now)?,
        None => Some(Authority::new(now)?),
    };
    let Some(due) = due else {
        return known.context("the CA vanished");
    };
    // The resourceVersion that was read goes along: of two replicas one wins.
    let next = Secret { data: Some(due.write()), ..secret };
    let options = PostParams { field_manager: Some(FIELD_MANAGER.into()), dry_run: false };
    api.replace(SECRET, &options, &next).await.with_context(|| format!("rotating {place}"))?;
    tracing::info!(secret = place, "rotated the CA");
    Ok(due)
}

/// Writes the bundle into our two webhook configurations where it differs.
async fn inject(settings: &Settings, bundle: &[u8]) -> Result<()> {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(settings.client.clone());
    let name = &settings.validating;
    let found = get(&api, name).await?;
    let hooks = found.webhooks.iter().flatten();
    let hooks: Vec<_> = hooks.map(|h| (h.name.as_str(), &h.client_config.ca_bundle)).collect();
    patch(&api, name, &hooks, bundle).await?;

    let api: Api<MutatingWebhookConfiguration> = Api::all(settings.client.clone());
    let name = &settings.mutating;
    let found = get(&api, name).await?;
    let hooks = found.webhooks.iter().flatten();
    let hooks: Vec<_> = hooks.map(|h| (h.name.as_str(), &h.client_config.ca_bundle)).collect();
    patch(&api, name, &hooks, bundle).await
}

async fn get<K>(api: &Api<K>, name: &str) -> Result<K>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let kind = K::kind(&());
    match api.get_opt(name).await.with_context(|| format!("reading {kind} {name}"))? {
        Some(found) if found.meta().deletion_timestamp.is_none() => Ok(found),
        Some(found) => bail!("{kind} {} is being deleted", found.name_any()),
        None => bail!("there is no {kind} {name}: apply manifests/base/webhooks.yaml"),
    }
}

async fn patch<K>(
    api: &Api<K>,
    name: &str,
    hooks: &[(&str, &Option<ByteString>)],
    bundle: &[u8],
) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let mut operations = Vec::new();
    for (index, (hook, has)) in hooks.iter().enumerate() {
        if has.as_ref().is_some_and(|b| b.0 == bundle) {
            continue;
        }
        // Guards against a list that was reordered since it was read.
        operations
            .push(json!({"op": "test", "path": format!("/webhooks/{index}/name"), "value": hook}));
        operations
            .push(json!({"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"),
            "value": ByteString(bundle.to_vec())}));
    }
    if operations.is_empty() {
        return Ok(());
    }
    let kind = K::kind(&());
    let patch = serde_json::from_value(json!(operations)).context("building the patch")?;
    let options =
        PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    api.patch(name, &options, &Patch::<()>::Json(patch))
        .await
        .with_context(|| format!("writing our CA into {kind} {name}"))?;
    tracing::info!(kind = %kind, name, "our CA is in the webhook configuration");
    Ok(())
}
