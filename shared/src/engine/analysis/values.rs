//! The values of arguments: from the Upgrade, the workload and its ReplicaSets.

use super::{Hindrance, Templates, borrowed};
use crate::analysis::args::{Arg, Args};
use crate::analysis::jsonpath::Path;
use crate::analysis::template::{Origin, arguments};
use crate::api::analysis::{AnalysisRef, ArgSource, FieldOf, FieldRef, PodTemplateHash};
use crate::api::separate::canary_of;
use crate::engine::Walk;
use crate::engine::objects::{DEPLOYMENTS, Look, Sight};
use crate::engine::plan::PlanTarget;
use serde_json::Value;

impl Walk<'_> {
    /// Every argument of an analysis of the present stage.
    pub(super) fn values(
        &mut self,
        templates: &Templates,
        asked: &AnalysisRef,
    ) -> Result<Args, Hindrance> {
        let stage = usize::try_from(self.status.current_stage_index).unwrap_or(0);
        let borrowed = borrowed(templates);
        let mut args = Args::new();
        for (name, origin) in arguments(&borrowed, asked).map_err(Hindrance::Said)? {
            let (value, from) = match origin {
                Origin::Given(arg) => (&arg.value, &arg.value_from),
                Origin::Written(arg) => (&arg.value, &arg.value_from),
            };
            let arg = match (value, from) {
                (Some(text), _) => Arg::Text(text.clone()),
                (None, Some(source)) => self.value_of(stage, name, source)?,
                (None, None) => Arg::Text(String::new()),
            };
            args.insert(name.to_owned(), arg);
        }
        Ok(args)
    }

    fn value_of(&mut self, stage: usize, name: &str, from: &ArgSource) -> Result<Arg, Hindrance> {
        if let Some(secret) = &from.secret_key_ref {
            return Ok(Arg::Secret(secret.clone()));
        }
        let target = self.plan.stages.get(stage).and_then(|s| s.targets().first());
        let target = target.ok_or_else(|| {
            Hindrance::Said(format!("argument {name}: the stage has no workload to read it from"))
        })?;
        if let Some(which) = from.pod_template_hash_value {
            return self.template_hash(stage, target, name, which).map(Arg::Text);
        }
        let Some(field) = &from.field_ref else {
            return Err(Hindrance::Said(format!("argument {name}: valueFrom names nothing")));
        };
        self.field(target, name, field).map(Arg::Text)
    }

    /// The hash as the ReplicaSet has it: its name is the Deployment's, or its canary's, and the
    /// hash.
    fn template_hash(
        &self,
        stage: usize,
        target: &PlanTarget,
        name: &str,
        which: PodTemplateHash,
    ) -> Result<String, Hindrance> {
        let status = self.status.stages.get(stage).and_then(|s| s.targets.first());
        let set = status.and_then(|s| match which {
            PodTemplateHash::Stable => s.stable_replica_set.as_deref(),
            PodTemplateHash::Latest => s.canary_replica_set.as_deref(),
        });
        let names = [canary_of(&target.name), target.name.clone()];
        let hash = set.and_then(|s| {
            names.iter().find_map(|name| s.strip_prefix(name.as_str())?.strip_prefix('-'))
        });
        match hash {
            Some(hash) => Ok(hash.to_owned()),
            None if status.is_none_or(|s| s.requested_weight == 0) => {
                Err(Hindrance::Said(format!(
                    "argument {name}: podTemplateHashValue is known from the first setWeight on"
                )))
            }
            None => Err(Hindrance::Wait),
        }
    }

    fn field(
        &mut self,
        target: &PlanTarget,
        name: &str,
        field: &FieldRef,
    ) -> Result<String, Hindrance> {
        let said = |why: String| Hindrance::Said(format!("argument {name}: {why}"));
        let path = Path::parse(&field.field_path).map_err(said)?;
        let object = if field.of == Some(FieldOf::Upgrade) {
            self.plan.fields.clone()
        } else {
            match self.see(&Look::name(DEPLOYMENTS, target.name.clone())) {
                None => return Err(Hindrance::Wait),
                Some(Sight::Unavailable(why)) => return Err(said(why.clone())),
                Some(Sight::Seen(objects)) => objects
                    .first()
                    .and_then(|o| serde_json::to_value(o.as_ref()).ok())
                    .unwrap_or_default(),
            }
        };
        match path.find(&object) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
            _ => Err(said(format!("{target} has no text under `{}`", field.field_path))),
        }
    }
}
