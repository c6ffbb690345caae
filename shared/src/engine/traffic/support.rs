//! What routes name has to be there first and goes last: Services of our own, or subsets; and which
//! of the user's Services they stand for.

use super::round::{Carry, Scene, Seen, Step, wait, whole};
use super::routes::{Carrier, carried_by, rule, same_version};
use super::{CANARY, HASH_LABEL, Router, STABLE, istio, made, services};
use crate::engine::Walk;
use crate::engine::effect::{How, ObjectWrite, set};
use crate::engine::observed::Workload;
use serde_json::{Value, json};

impl<'a> Walk<'a> {
    /// What the routes name has to be there: Services by hash, or subsets. Whether any was written.
    pub(super) fn support(&mut self, scene: &mut Scene<'a>, workload: &Workload) -> Step<bool> {
        if scene.traffic.router.rule().is_some() {
            return self.subsets(scene, true);
        }
        let name = scene.names.root.clone();
        let Some(root) = services::named(scene.services, &name) else {
            return wait(format!("Service {name} does not exist"));
        };
        let Some(hash) = scene.note.stable_hash.clone() else {
            return wait("the stable ReplicaSet has no label pod-template-hash yet");
        };
        let mut writes = vec![];
        let wanted = [
            (&scene.names.stable, Some(hash)),
            (
                &scene.names.canary,
                scene.note.canary_hash.clone().filter(|_| scene.canary.is_some()),
            ),
        ];
        for (name, hash) in wanted {
            let Some(hash) = hash else { continue };
            let write = |how, why: &str| ObjectWrite {
                resource: crate::engine::objects::SERVICES,
                name: name.clone(),
                how,
                why: format!("{why} of the pods with {HASH_LABEL} {hash}"),
            };
            match services::named(scene.services, name) {
                None => {
                    let object = json!({
                        "apiVersion": "v1", "kind": "Service",
                        "metadata": scene.metadata(&self.plan.name, name),
                        "spec": services::spec(root, &hash),
                    });
                    writes.push(write(How::Create(object), "Service"));
                }
                Some(s) if !services::is_ours(s, &self.plan.name, &workload.uid) => {
                    let help = match scene.traffic.root {
                        Some(_) => "delete it, or give it another name",
                        None => "name others in canary.stableService and canary.canaryService",
                    };
                    return Err(Carry::Broken(format!(
                        "Service {name} is there already, and is not this Upgrade's; {help}"
                    )));
                }
                Some(s) => {
                    let selector = services::selector(root, &hash);
                    if s.data.pointer("/spec/selector") != Some(&selector) {
                        let test = same_version(s);
                        let how = How::Patch(vec![test, set("/spec/selector", &selector)]);
                        writes.push(write(how, "Service"));
                    }
                }
            }
        }
        let wrote = !writes.is_empty();
        for write in writes {
            self.put(write);
        }
        Ok(wrote)
    }

    /// Subsets of a DestinationRule, or what was there before them. Whether any was written.
    pub(super) fn subsets(&mut self, scene: &mut Scene<'a>, on: bool) -> Step<bool> {
        let Some(settings) = scene.traffic.router.rule() else { return Ok(false) };
        let part = rule(&settings.name);
        let (id, pointer) = (part.id(), "/spec/subsets");
        let Some(object) = self.object(&part)? else {
            return if on { wait(format!("{id} does not exist")) } else { Ok(false) };
        };
        if let Some(other) = carried_by(object).filter(|l| *l != self.plan.name) {
            return if on { wait(format!("{id} is used by Upgrade {other}")) } else { Ok(false) };
        }
        let now = object.data.pointer(pointer);
        let hashed = now
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .any(|s| s.pointer("/labels").and_then(|l| l.get(HASH_LABEL)).is_some());
        let noted = scene.noted(&id, pointer);
        let original = match noted {
            Some(noted) if hashed => {
                let noted = noted.value();
                now.and_then(|now| istio::own(now, noted.as_ref(), settings))
            }
            _ => now.cloned(),
        };
        if !on && !hashed {
            let Some(unmarked) = part.unmark(object, &self.plan.name) else { return Ok(false) };
            self.put(unmarked);
            return Ok(true);
        }
        let to = if on {
            let Some(stable) = scene.note.stable_hash.clone() else {
                return wait("the stable ReplicaSet has no label pod-template-hash yet");
            };
            scene.record(&id, pointer, original.as_ref());
            let canary = scene.note.canary_hash.as_deref();
            istio::subsets(original.as_ref(), settings, &stable, canary)
        } else {
            original.unwrap_or(Value::Null)
        };
        if now == Some(&to) {
            return Ok(false);
        }
        let why = if on { "subsets by pod-template-hash" } else { "subsets as they were" };
        let fields = vec![(pointer.to_owned(), to)];
        let write = part.patch(object, &self.plan.name, &fields, why.to_owned());
        self.put(write);
        Ok(true)
    }
}

impl Scene<'_> {
    /// Which Service is the workload's, and what ours are called.
    pub(super) fn begin(
        &mut self,
        objects: &[Seen<'_>],
        workload: &Workload,
        upgrade: &str,
    ) -> Step<()> {
        let selecting = self.services.iter().filter(|s| {
            services::selects(s, workload) && !services::is_ours(s, upgrade, &workload.uid)
        });
        let selecting: Vec<String> = selecting.filter_map(|s| s.metadata.name.clone()).collect();
        let mut found = match (&self.traffic.root, &self.traffic.router) {
            (Some(root), _) => vec![root.clone()],
            (None, Router::Smi(s)) if s.root_service.is_some() => {
                s.root_service.iter().cloned().collect()
            }
            (None, Router::Services | Router::Smi(_)) => selecting.clone(),
            (None, _) => {
                let sent = |(part, object): &Seen<'_>| {
                    object.map(|o| part.backends(&whole(o), &self.traffic.namespace))
                };
                objects.iter().filter_map(sent).flatten().collect()
            }
        };
        found.retain(|name| selecting.contains(name));
        found.sort();
        found.dedup();
        let preferred = [self.traffic.stable.as_deref(), Some(self.target.name.as_str())];
        let preferred = preferred.into_iter().flatten().find(|p| found.iter().any(|f| f == p));
        let theirs = objects.iter().filter(|(p, _)| !matches!(p.how, Carrier::Managed { .. }));
        let ids = theirs.map(|(p, _)| p.id()).collect::<Vec<_>>().join(", ");
        let root = match (found.as_slice(), preferred) {
            ([], _) if ids.is_empty() => {
                return wait(format!("no Service selects the pods of {}", self.target));
            }
            ([], _) => {
                return wait(format!("{ids}: sends to no Service of the pods of {}", self.target));
            }
            ([one], _) => one.clone(),
            (_, Some(name)) => name.to_owned(),
            (many, None) => {
                return Err(Carry::Broken(format!(
                    "{ids}: several Services select the pods of {}: {}; name one in \
                     canary.stableService",
                    self.target,
                    many.join(", ")
                )));
            }
        };
        let free = |chosen: &Option<String>, end: &str| {
            let other = |name: &&String| {
                let found = services::named(self.services, name);
                found.is_none_or(|s| services::is_ours(s, upgrade, &workload.uid))
            };
            chosen.as_ref().filter(other).cloned().unwrap_or_else(|| made(&root, end))
        };
        let (stable, canary) =
            (free(&self.traffic.stable, STABLE), free(&self.traffic.canary, CANARY));
        self.note.stable_service = stable;
        self.note.canary_service = canary;
        self.note.service = root;
        self.name();
        Ok(())
    }
}
