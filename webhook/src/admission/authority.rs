//! The CA that signs our serving certificates, and when it changes: pure but for randomness.
//!
//! The CA lives in a Secret that all replicas share; each replica signs a short-lived certificate
//! of its own, whose key never leaves its memory. A new CA is published in the bundle an hour
//! before anything is signed with it, and the old one stays in the bundle until everything it
//! signed has expired, so that no API server ever meets a certificate it does not trust yet.

use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use std::collections::BTreeMap;
use std::time::Duration;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// Life of a CA, in seconds.
const CA_LIFE: i64 = 365 * DAY;
/// Life of a serving certificate, in seconds.
const LEAF_LIFE: i64 = 7 * DAY;
/// How long a new CA is in the bundle before it signs.
const OVERLAP: i64 = HOUR;
/// Certificates begin a little earlier than now, for clocks that are behind.
const BACKDATE: i64 = HOUR;

/// A CA's certificate and when it was made; the key, too, where it may still sign.
#[derive(Clone, PartialEq, Eq)]
struct Ca {
    certificate: String,
    key: Option<String>,
    since: i64,
}

/// The CAs there are.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    current: Ca,
    next: Option<Ca>,
    old: Option<Ca>,
}

/// A serving certificate, in PEM.
pub struct Leaf {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// Unix second at which the next one is made: two thirds of its life.
    pub renew: i64,
    /// Unix second at which it ends.
    pub until: i64,
}

impl Ca {
    fn new(now: i64) -> Result<Self> {
        let key = KeyPair::generate().context("making a key")?;
        let mut params = params(&[], &format!("upgrade-webhook CA {now}"), now, CA_LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).context("signing the CA")?.pem();
        Ok(Self { certificate, key: Some(key.serialize_pem()), since: now })
    }

    fn expired(&self, now: i64) -> bool {
        now >= self.since + CA_LIFE
    }
}

impl Authority {
    /// A first CA.
    pub fn new(now: i64) -> Result<Self> {
        Ok(Self { current: Ca::new(now)?, next: None, old: None })
    }

    /// The CAs of a Secret's data; `None` where the current one is missing or damaged.
    pub fn read(data: &BTreeMap<String, ByteString>) -> Option<Self> {
        let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
        let ca = |name: &str| {
            Some(Ca {
                certificate: text(&format!("{name}.crt"))?,
                key: text(&format!("{name}.key")),
                since: text(&format!("{name}.since"))?.trim().parse().ok()?,
            })
        };
        let current = ca("ca").filter(|c| c.key.is_some())?;
        Some(Self { current, next: ca("next").filter(|c| c.key.is_some()), old: ca("old") })
    }

    /// The Secret's data.
    pub fn write(&self) -> BTreeMap<String, ByteString> {
        let mut data = BTreeMap::new();
        let mut put = |name: &str, ca: &Ca| {
            let mut set = |end: &str, text: String| {
                data.insert(format!("{name}.{end}"), ByteString(text.into_bytes()));
            };
            set("crt", ca.certificate.clone());
            set("since", ca.since.to_string());
            if let Some(key) = &ca.key {
                set("key", key.clone());
            }
        };
        put("ca", &self.current);
        if let Some(next) = &self.next {
            put("next", next);
        }
        if let Some(old) = &self.old {
            put("old", old);
        }
        data
    }

    /// The CAs that clients are to trust now, in PEM.
    pub fn bundle(&self, now: i64) -> String {
        let all = [Some(&self.current), self.next.as_ref(), self.old.as_ref()];
        let valid = all.into_iter().flatten().filter(|ca| !ca.expired(now));
        valid.flat_map(|ca| [ca.certificate.trim_end(), "\n"]).collect()
    }

    /// The CAs as they should be now, where that differs from what they are.
    pub fn due(&self, now: i64) -> Result<Option<Self>> {
        let mut due = self.clone();
        if due.current.expired(now) {
            // Everybody slept for a year: there is nothing left to overlap with.
            return Ok(Some(Self::new(now)?));
        }
        if due.old.is_some() && now >= due.current.since + OVERLAP + LEAF_LIFE + DAY {
            due.old = None;
        }
        match due.next.take() {
            Some(next) if now >= next.since + OVERLAP => {
                let retired = std::mem::replace(&mut due.current, next);
                due.old = Some(Ca { key: None, ..retired });
            }
            Some(next) => due.next = Some(next),
            None if now >= due.current.since + CA_LIFE / 3 * 2 => due.next = Some(Ca::new(now)?),
            None => {}
        }
        Ok((due != *self).then_some(due))
    }

    /// Whether a serving certificate signed by `other` is as good as one of ours.
    pub fn signs_like(&self, other: &str) -> bool {
        self.current.certificate == other
    }

    /// The certificate of the CA that signs.
    pub fn certificate(&self) -> &str {
        &self.current.certificate
    }

    /// Signs a serving certificate for these names and addresses.
    pub fn leaf(&self, sans: &[String], now: i64) -> Result<Leaf> {
        let pem = self.current.key.as_deref().context("the CA has no key")?;
        let ca_key = KeyPair::from_pem(pem).context("reading the CA's key")?;
        let issuer = Issuer::from_ca_cert_pem(&self.current.certificate, ca_key)
            .context("reading the CA's certificate")?;
        let life = LEAF_LIFE.min(self.current.since + CA_LIFE - now);
        let mut params = params(sans, "upgrade-webhook", now, life)?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().context("making a key")?;
        let certificate = params.signed_by(&key, &issuer).context("signing")?.pem();
        let (renew, until) = (now + life / 3 * 2, now + life);
        Ok(Leaf { certificate, key: key.serialize_pem(), renew, until })
    }
}

fn params(sans: &[String], name: &str, now: i64, life: i64) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(sans).context("--san: not a name or an address")?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    let at = |unix: i64| {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(unix.try_into().unwrap_or(0))
    };
    params.not_before = at(now - BACKDATE);
    params.not_after = at(now + life);
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn certificates(authority: &Authority, now: i64) -> usize {
        authority.bundle(now).matches("BEGIN CERTIFICATE").count()
    }

    #[test]
    fn the_secret_keeps_everything() {
        let mut authority = Authority::new(NOW).expect("a CA");
        authority.next = Some(Ca::new(NOW + 1).expect("a CA"));
        authority.old = Some(Ca { key: None, ..Ca::new(NOW - 1).expect("a CA") });
        assert!(Authority::read(&authority.write()).is_some_and(|a| a == authority));
        assert!(Authority::read(&BTreeMap::new()).is_none());
    }

    #[test]
    fn a_new_ca_is_trusted_before_it_signs_and_the_old_one_until_its_last_leaf_ends() {
        let first = Authority::new(NOW).expect("a CA");
        assert!(first.due(NOW + DAY).expect("due").is_none());
        let start = NOW + CA_LIFE / 3 * 2;
        let both = first.due(start).expect("due").expect("a change");
        assert!(both.signs_like(first.certificate()));
        assert_eq!(certificates(&both, start), 2);
        assert!(both.due(start + OVERLAP - 1).expect("due").is_none());
        let turned = both.due(start + OVERLAP).expect("due").expect("a change");
        assert!(!turned.signs_like(first.certificate()));
        assert!(turned.bundle(start + OVERLAP).contains(first.certificate().trim_end()));
        assert!(!turned.write().contains_key("old.key"), "a retired CA cannot sign");
        let last_leaf = start + OVERLAP + LEAF_LIFE;
        assert!(turned.due(last_leaf).expect("due").is_none());
        let done = turned.due(last_leaf + DAY).expect("due").expect("a change");
        assert_eq!(certificates(&done, last_leaf + DAY), 1);
    }

    #[test]
    fn after_a_year_of_sleep_there_is_a_new_ca_at_once() {
        let first = Authority::new(NOW).expect("a CA");
        let again = first.due(NOW + CA_LIFE).expect("due").expect("a change");
        assert!(!again.signs_like(first.certificate()));
        assert_eq!(certificates(&again, NOW + CA_LIFE), 1);
    }

    #[test]
    fn a_leaf_names_what_it_serves_and_never_outlives_its_ca() {
        let authority = Authority::new(NOW).expect("a CA");
        let sans = ["a.b.svc".to_owned(), "127.0.0.1".to_owned()];
        let leaf = authority.leaf(&sans, NOW).expect("a leaf");
        assert_eq!((leaf.until, leaf.renew), (NOW + LEAF_LIFE, NOW + LEAF_LIFE / 3 * 2));
        let late = authority.leaf(&sans, NOW + CA_LIFE - DAY).expect("a leaf");
        assert_eq!(late.until, NOW + CA_LIFE);
        assert!(authority.leaf(&["not a name!".to_owned() + "\u{e9}"], NOW).is_err());
    }
}
