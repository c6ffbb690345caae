//! The beginning: what has to hold before anything is written, and the first write.

use super::services::{self, Found, Service};
use super::{Flight, Next};
use crate::api::blue_green::{BlueGreenStatus, ServiceStatus};
use crate::api::status::TargetStatus;
use crate::engine::effect::Write;
use crate::engine::observed::HASH_LABEL;
use crate::engine::{Walk, law, plan_error};

impl<'a> Walk<'a> {
    /// Before anything else our label goes on the Deployment: from then on no other template comes
    /// to it, and the Service is never pinned to pods that somebody's rollout takes away.
    pub(super) fn claim(
        &mut self,
        f: &Flight<'a, '_>,
        active: Option<Service<'a>>,
        status: &mut TargetStatus,
    ) -> Next {
        let active = match self.fit(f, active) {
            Ok(active) => active,
            Err(next) => return next,
        };
        let preview = match self.preview_at_start(f) {
            Ok(preview) => preview,
            Err(next) => return next,
        };
        if let Some(why) = f.driver.unready().or_else(|| self.strangers(f, active)) {
            return Next::Wait(why);
        }
        let Some(hash) = f.stable().and_then(|s| s.hash.clone()) else {
            let what = format!("its ReplicaSet has no label {HASH_LABEL}");
            return Next::Broken(plan_error(f.target, &what));
        };
        status.requested_weight = 100;
        status.originals = Some(f.originals.clone());
        status.uid = Some(f.workload.uid.clone());
        status.stable_replica_set = f.driver.stable_set().map(str::to_owned);
        status.blue_green = Some(BlueGreenStatus {
            stable_hash: Some(hash),
            active: ServiceStatus {
                name: active.name().to_owned(),
                generated: false,
                selector: active.original(),
            },
            preview,
            ..BlueGreenStatus::default()
        });
        let why = "begins".to_owned();
        self.patch(f.target, f.workload, Write { why: why.clone(), ..Write::default() });
        Next::Wrote(why)
    }

    /// The active Service, where it and the Deployment can be switched.
    fn fit(&self, f: &Flight<'a, '_>, active: Option<Service<'a>>) -> Result<Service<'a>, Next> {
        let wrong = |what: &str| Err(Next::Broken(plan_error(f.target, what)));
        let Some(active) = active else {
            return wrong(&format!("there is no Service {} (activeService)", f.settings.active));
        };
        if f.workload.recreate {
            return wrong("its strategy is Recreate, which allows no new pod beside an old one");
        }
        if law::resolve_surge(f.originals.max_surge.as_ref(), f.workload.replicas.max(1)) == 0 {
            return wrong(
                "its maxSurge is 0, and blue-green needs as many pods again; use canary or rolling",
            );
        }
        let name = &self.plan.name;
        if let Some(what) = active.unfit(name, f.workload) {
            return wrong(&what);
        }
        if let Some(other) = active.label().filter(|l| *l != name) {
            return Err(Next::Wait(format!("Upgrade {other} switches Service {}", active.name())));
        }
        Ok(active)
    }

    /// The preview Service as its owner has it, or why it cannot be used.
    fn preview_at_start(&mut self, f: &Flight<'a, '_>) -> Result<ServiceStatus, Next> {
        let (name, generated) = (f.settings.preview.clone(), f.settings.generated);
        let broken = |what: String| Err(Next::Broken(plan_error(f.target, &what)));
        let fresh = |selector| ServiceStatus { name: name.clone(), generated, selector };
        match self.service(&name) {
            Found::Unknown(what) => Err(Next::Wait(what)),
            Found::Missing if generated => Ok(fresh(services::Labels::new())),
            Found::Missing => broken(format!("there is no Service {name} (previewService)")),
            Found::Here(it) if generated && !it.is_of(&f.workload.uid) => broken(format!(
                "Service {name} is there already; name it in previewService, or delete it"
            )),
            Found::Here(_) if generated => Ok(fresh(services::Labels::new())),
            Found::Here(it) => {
                if let Some(what) = it.unfit(&self.plan.name, f.workload) {
                    return broken(what);
                }
                match it.label().filter(|l| *l != self.plan.name) {
                    Some(other) => {
                        Err(Next::Wait(format!("Upgrade {other} switches Service {name}")))
                    }
                    None => Ok(fresh(it.original())),
                }
            }
        }
    }

    /// Why the endpoints of the active Service are not exactly the old pods: pinned, it would lose
    /// others, and a cache that is behind shows here.
    fn strangers(&mut self, f: &Flight<'a, '_>, active: Service<'a>) -> Option<String> {
        let name = active.name();
        match self.endpoints(name) {
            Err(why) => Some(why),
            Ok(pods) if pods.is_empty() => Some(format!("Service {name} has no ready endpoint")),
            Ok(pods) => {
                let other = pods.into_iter().find(|p| !f.has(f.stable(), p))?;
                Some(format!(
                    "Service {name} has an endpoint that is no present pod of this workload: \
                     {other}; it would lose it"
                ))
            }
        }
    }
}
