//! The end of a split: routes as their owner wrote them, then nothing of ours.

use super::round::{Scene, Step, remove, wait, whole};
use super::routes::{Part, carried_by};
use super::services;
use crate::engine::Walk;
use crate::engine::effect::ObjectWrite;
use kube::core::DynamicObject;

impl<'a> Walk<'a> {
    /// What their owner wrote, then nothing of ours.
    pub(super) fn hand_back(&mut self, scene: &mut Scene<'a>) -> Step<()> {
        if scene.note.service.is_empty() {
            return Ok(());
        }
        let objects = self.objects(scene)?;
        if scene.traffic.routes() {
            self.root_serves(scene)?;
            let mut wrote = false;
            for (part, object) in &objects {
                wrote |= self.restore_part(scene, part, *object);
            }
            if wrote {
                scene.note.since = None;
                return wait("the routes are being put back");
            }
            for (part, object) in &objects {
                let mine = object.filter(|o| !services::is_ours(o, &self.plan.name, &scene.uid));
                if let Some(unmarked) = mine.and_then(|o| part.unmark(o, &self.plan.name)) {
                    wrote = true;
                    self.put(unmarked);
                }
            }
            if wrote {
                return wait("the routes are being put back");
            }
            scene.note.effective_weight = 0;
            self.follow(scene, &objects, true)?;
        }
        if self.subsets(scene, false)? {
            return wait("the subsets are being put back");
        }
        let made =
            [&scene.names.stable, &scene.names.canary].map(|n| services::named(scene.services, n));
        let ours: Vec<_> = made
            .into_iter()
            .flatten()
            .filter(|s| services::is_ours(s, &self.plan.name, &scene.uid))
            .collect();
        for service in &ours {
            self.put(ObjectWrite {
                resource: crate::engine::objects::SERVICES,
                name: service.metadata.name.clone().unwrap_or_default(),
                how: remove(service),
                why: "not needed any more".to_owned(),
            });
        }
        if ours.is_empty() { Ok(()) } else { wait("Services of its own are being deleted") }
    }

    /// The user's Service has to serve before traffic goes back to it; where it was deleted
    /// meanwhile there is nothing to wait for.
    fn root_serves(&mut self, scene: &Scene<'a>) -> Step<()> {
        let root = &scene.names.root;
        let (Some(workload), Some(_)) = (scene.workload, services::named(scene.services, root))
        else {
            return Ok(());
        };
        let sight = self.see(&services::endpoints(root));
        let wanted = workload.pods.iter().any(|p| p.ready_since.is_some());
        let mut ready = 0;
        for set in &workload.replica_sets {
            match services::ready(sight, workload, &set.name) {
                None => return wait(format!("endpoints of Service {root} are being listed")),
                Some(n) => ready += n,
            }
        }
        if wanted && ready == 0 {
            return wait(format!("Service {root} has no ready endpoints"));
        }
        Ok(())
    }

    fn restore_part(
        &mut self,
        scene: &Scene<'a>,
        part: &Part,
        object: Option<&DynamicObject>,
    ) -> bool {
        let Some(object) = object else { return false };
        let why = "as it was".to_owned();
        if services::is_ours(object, &self.plan.name, &scene.uid) {
            self.put(part.write(remove(object), "not needed any more".to_owned()));
            return true;
        }
        if carried_by(object).is_some_and(|l| l != self.plan.name) {
            return false;
        }
        let value = whole(object);
        let fields = part.fields(&value, &scene.names, &scene.note.originals);
        let back: Vec<_> =
            fields.into_iter().filter(|(p, v)| value.pointer(p) != Some(v)).collect();
        if back.is_empty() {
            return false;
        }
        self.put(part.patch(object, &self.plan.name, &back, why));
        true
    }
}
