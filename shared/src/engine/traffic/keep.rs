//! What admission keeps of a route in flight: whoever writes it, traffic goes on where it went.

use super::round::whole_value;
use super::routes::{Carrier, Part, rule};
use super::{Names, Traffic, istio};
use crate::api::Upgrade;
use crate::api::traffic::{TrafficPhase, TrafficStatus};
use crate::engine::plan::Plan;
use serde_json::Value;

/// Fields of a write to an object that an Upgrade carries traffic by, as they have to be for none
/// of it to go elsewhere: pointers with values. None where it carries no traffic by it now. `old`
/// is the object as it is, `new` as somebody wants it.
pub fn keep(upgrade: &Upgrade, kind: &str, old: &Value, new: &Value) -> Vec<(String, Value)> {
    let (Ok(plan), Some(status)) = (Plan::new(upgrade), &upgrade.status) else { return vec![] };
    let name = old.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    for (stage, now) in plan.stages.iter().zip(&status.stages) {
        let Some(traffic) = stage.workloads().and_then(|w| w.traffic.as_ref()) else { continue };
        let Some(note) = now.traffic.as_ref().filter(|t| is_carried(t)) else { continue };
        let target = stage.targets().first().map_or("", |t| t.name.as_str());
        let mut parts = traffic.parts(target);
        parts.extend(traffic.router.rule().map(|r| rule(&r.name)));
        let found = parts.into_iter().find(|p| p.resource.kind == kind && p.name == name);
        if let Some(part) = found {
            return part.kept(traffic, note, old, new);
        }
    }
    vec![]
}

fn is_carried(note: &TrafficStatus) -> bool {
    let ours = [TrafficPhase::Pinning, TrafficPhase::Splitting, TrafficPhase::Promoting];
    ours.contains(&note.phase) && !note.service.is_empty()
}

impl Part {
    fn kept(
        &self,
        traffic: &Traffic,
        note: &TrafficStatus,
        old: &Value,
        new: &Value,
    ) -> Vec<(String, Value)> {
        let names = Names::noted(traffic, note);
        let noted = note.originals.iter().any(|o| o.object == self.id());
        let wanted: Vec<(String, Value)> = match (&self.how, traffic.router.rule()) {
            // Ours as a whole.
            (Carrier::Beside(_), _) => whole_value(old, &["/metadata/annotations", "/spec"]),
            (Carrier::Managed { .. }, _) => whole_value(old, &["/spec"]),
            (Carrier::Split, _) if !noted => whole_value(old, &["/spec"]),
            (Carrier::Subsets, Some(rule)) => {
                let Some(stable) = note.stable_hash.as_deref() else { return vec![] };
                let list = new.pointer("/spec/subsets");
                let list = istio::subsets(list, rule, stable, note.canary_hash.as_deref());
                vec![("/spec/subsets".to_owned(), list)]
            }
            _ => {
                let weight = self.share(old, &names).unwrap_or(note.effective_weight);
                let fields = self.fields(new, &names, &note.originals).into_iter();
                fields.map(|(p, o)| (p, self.carried(&o, &names, weight))).collect()
            }
        };
        wanted.into_iter().filter(|(p, v)| new.pointer(p) != Some(v)).collect()
    }

    /// The canary's share of what an object sends to the workload, in percent.
    fn share(&self, object: &Value, names: &Names) -> Option<i32> {
        let style = self.style()?;
        self.pointers(object).iter().find_map(|p| style.share(object.pointer(p)?, names))
    }
}
