//! What sends clients to one version or the other: the selector of the active Service, or the
//! weights of routes, where the Service stays its owner's.

use super::services::Service;
use super::{Flight, Next};
use crate::api::blue_green::{BlueGreenPhase, BlueGreenStatus, ServiceStatus};
use crate::api::status::TargetStatus;
use crate::api::traffic::TrafficPhase;
use crate::engine::Walk;
use crate::engine::traffic::Carry;

impl<'a> Walk<'a> {
    /// Whether clients are sent to the new pods.
    pub(super) fn on_new(
        &self,
        f: &Flight<'_, '_>,
        bg: &BlueGreenStatus,
        active: Service<'_>,
    ) -> bool {
        if f.plan.traffic.is_some() {
            return self.aimed_at(f.stage) == 100;
        }
        active.hash().is_some() && active.hash() == bg.new_hash
    }

    /// The one place that sends clients somewhere: to the pods of a hash, or to all that the
    /// owner's selector selects. What the round comes to where that is not so yet.
    pub(super) fn turn(
        &mut self,
        f: &Flight<'a, '_>,
        bg: &BlueGreenStatus,
        active: Service<'a>,
        goal: Option<&str>,
        why: &str,
    ) -> Option<Next> {
        if f.plan.traffic.is_none() {
            return self.point(active, &bg.active, goal, why).map(Next::Wrote);
        }
        let new = goal.is_some() && goal == bg.new_hash.as_deref();
        // Elsewhere the pods do not wait for the routes: these follow them.
        let waits = match bg.phase {
            BlueGreenPhase::Pinning => true,
            BlueGreenPhase::Switching => new && f.workload.replicas > 0,
            _ => false,
        };
        match self.aim(f.stage, f.plan, if new { 100 } else { 0 }) {
            Carry::Waiting(what) if waits => Some(Next::Wait(what)),
            Carry::Broken(why) if waits => Some(Next::Broken(why)),
            _ => None,
        }
    }

    /// Points a Service to the pods of one hash, or to its owner's. What was written, where it was
    /// not so.
    pub(super) fn point(
        &mut self,
        service: Service<'a>,
        owner: &ServiceStatus,
        hash: Option<&str>,
        why: &str,
    ) -> Option<String> {
        let write = service.select(&self.plan.name, &owner.selector, hash, why)?;
        Some(self.write_service(write))
    }

    /// Whom clients reach, as last seen.
    pub(super) fn note_clients(
        &self,
        f: &Flight<'_, '_>,
        bg: &mut BlueGreenStatus,
        active: Option<Service<'_>>,
        status: &mut TargetStatus,
    ) {
        if f.plan.traffic.is_some() {
            let traffic = self.traffic(f.stage).filter(|t| t.phase > TrafficPhase::Pinning);
            let new = traffic.is_some_and(|t| t.effective_weight == 100)
                || bg.phase == BlueGreenPhase::Restoring;
            let hash = if new { &bg.new_hash } else { &bg.stable_hash };
            bg.active_selector = traffic.and_then(|_| hash.clone());
            status.effective_weight = if new { 100 } else { 0 };
            return;
        }
        let Some(seen) = active.filter(|a| a.label().is_some()) else { return };
        bg.active_selector = seen.hash();
        if let Some(hash) = seen.hash() {
            status.effective_weight = if Some(hash) == bg.new_hash { 100 } else { 0 };
        }
    }
}
