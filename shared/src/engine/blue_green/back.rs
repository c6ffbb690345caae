//! The way back, standing still, and the end: clients first, and nobody is ever sent to pods that
//! are not there.

use super::Flight;
use super::services::{Found, Service};
use crate::api::blue_green::{BlueGreenPhase, BlueGreenStatus};
use crate::api::status::TargetStatus;
use crate::engine::deployment::Driver;
use crate::engine::observed::Workload;
use crate::engine::plan::PlanStage;
use crate::engine::{Walk, law};

impl<'a> Walk<'a> {
    /// Clients go back before the template does: to the old pods where they are all still there,
    /// which is instant; else to both kinds, for the old ones come back one by one. None where the
    /// template may go back now, else what is waited for.
    pub(crate) fn services_before_back(
        &mut self,
        workload: &'a Workload,
        status: &TargetStatus,
    ) -> Option<String> {
        let bg = status.blue_green.as_ref()?;
        let active = match self.service(&bg.active.name) {
            Found::Unknown(what) => return Some(what),
            Found::Missing => return None,
            Found::Here(active) => active,
        };
        if !self.is_ours(active) {
            return None;
        }
        let stable = status.stable_replica_set.as_deref().and_then(|name| workload.set(name));
        let at = active.hash();
        let n = workload.replicas;
        let served = n == 0 || stable.is_some_and(|s| s.replicas > 0);
        if at.is_none() || (at == bg.stable_hash && served) {
            return None;
        }
        let spare = status
            .originals
            .as_ref()
            .map_or(0, |o| law::resolve_unavailable(o.max_unavailable.as_ref(), n));
        let whole = stable.is_some_and(|s| s.replicas >= n && s.ready >= (n - spare).max(1));
        let (hash, why) = if whole {
            (bg.stable_hash.as_deref(), "switch back to the old pods")
        } else {
            (None, "its owner's selector, for the old pods come back one by one")
        };
        self.point(active, &bg.active, hash, why)
    }

    /// The same as [`let_services_go`](Self::let_services_go), for a target that may have none.
    pub(crate) fn services_left(&mut self, status: &TargetStatus) -> Option<String> {
        let bg = status.blue_green.as_ref()?;
        self.let_services_go(bg, status.uid.as_deref().unwrap_or_default())
    }

    /// The Services are as their owners had them, and no mark of ours is left; the preview that was
    /// made is gone. None when all of that is so, else what is done about it.
    pub(crate) fn let_services_go(&mut self, bg: &BlueGreenStatus, uid: &str) -> Option<String> {
        match self.service(&bg.active.name) {
            Found::Unknown(what) => return Some(what),
            Found::Missing => {}
            Found::Here(active) => {
                if let Some(wrote) = self.give_back(active, &bg.active) {
                    return Some(wrote);
                }
            }
        }
        match self.service(&bg.preview.name) {
            Found::Unknown(what) => Some(what),
            Found::Missing => None,
            Found::Here(it) if bg.preview.generated => {
                // A namesake is somebody else's; garbage collection takes the one of a
                // Deployment that is gone.
                let made = it.is_of(uid) && self.is_ours(it);
                made.then(|| self.write_service(it.delete()))
            }
            Found::Here(it) => self.give_back(it, &bg.preview),
        }
    }

    fn give_back(
        &mut self,
        service: Service<'a>,
        owner: &crate::api::blue_green::ServiceStatus,
    ) -> Option<String> {
        if self.is_ours(service)
            && let Some(wrote) = self.point(service, owner, None, "its owner's selector again")
        {
            return Some(wrote);
        }
        if service.label().is_some() && !self.is_ours(service) {
            return None;
        }
        let write = service.release()?;
        Some(self.write_service(write))
    }

    fn is_ours(&self, service: Service<'_>) -> bool {
        service.label() == Some(self.plan.name.as_str())
    }

    /// Standing still, clients stay where they are: a selector that somebody changed is put back,
    /// and where the pods that it selects are gone they go to the others.
    pub(crate) fn hold_services(&mut self, stage: usize) {
        let plan = self.plan.stages.get(stage).and_then(PlanStage::workloads);
        let Some((plan, settings)) = plan.and_then(|p| Some((p, p.blue_green.as_ref()?))) else {
            return;
        };
        let Some((target, seen, status)) = self.target(stage, 0) else { return };
        let (Some(bg), Some(originals)) = (&status.blue_green, &status.originals) else { return };
        if matches!(bg.phase, BlueGreenPhase::Pinning | BlueGreenPhase::Restoring) {
            return;
        }
        let Found::Here(active) = self.service(&settings.active) else { return };
        let _ = self.service(&settings.preview);
        let why = "keep its clients";
        let Some(workload) = seen.filter(|w| status.uid.as_ref() == Some(&w.uid)) else {
            if plan.traffic.is_none() {
                self.point(active, &bg.active, None, why);
            }
            return;
        };
        let driver = &Driver::new(target, workload, originals, &status, plan, self.now);
        let flight = Flight { stage, target, workload, plan, settings, driver, originals };
        let goal = Self::goal(&flight, bg, self.on_new(&flight, bg, active));
        self.turn(&flight, bg, active, goal.as_deref(), why);
    }
}
