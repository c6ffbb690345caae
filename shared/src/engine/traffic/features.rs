//! What routers say that they can: `status.supportedFeatures` of the GatewayClass.
//!
//! A router that knows no copies answers every request of a rule with such a filter itself, with an
//! error (Gateway API specification, `HTTPRouteFilter.type`), and need not say so anywhere: Traefik
//! 3.6 does not. Such a route must never be made, so what a class does not list is not there.

use super::round::{Carry, Seen, Step, wait};
use super::routes::{Carrier, GATEWAY_API};
use crate::engine::Walk;
use crate::engine::managed::{RouteStep, Setting};
use crate::engine::objects::{Look, Resource};
use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::Value;

const GATEWAY: Resource =
    Resource { api_version: GATEWAY_API, kind: "Gateway", plural: "gateways" };
const CLASS: Resource =
    Resource { api_version: GATEWAY_API, kind: "GatewayClass", plural: "gatewayclasses" };

impl<'a> Walk<'a> {
    /// Whether every router of the user's routes says that it can do what a step asks of it.
    pub(super) fn able(&mut self, objects: &[Seen<'a>], step: &RouteStep) -> Step<()> {
        let needed = needed(&step.to);
        if needed.is_empty() {
            return Ok(());
        }
        for (part, route) in objects {
            let (Carrier::Lists(..), Some(route)) = (&part.how, route) else { continue };
            let parents = route.data.pointer("/spec/parentRefs").and_then(Value::as_array);
            for parent in parents.into_iter().flatten() {
                let class = self.class(&part.id(), parent, step)?;
                let missing = needed.iter().find(|f| !lists(class, f));
                if let Some(missing) = missing {
                    return Err(Carry::Broken(format!(
                        "{step}: GatewayClass {} does not list {missing} in \
                         status.supportedFeatures, and a router without it answers such requests \
                         with an error; leave the step out, or take a router that lists it (the \
                         list is kept from Gateway API 1.4 on)",
                        class.name_any()
                    )));
                }
            }
        }
        Ok(())
    }

    /// The class of the Gateway that a route has as a parent.
    fn class(&mut self, id: &str, parent: &Value, step: &RouteStep) -> Step<&'a DynamicObject> {
        let text = |key: &str| parent.get(key).and_then(Value::as_str);
        let (kind, name) = (text("kind").unwrap_or(GATEWAY.kind), text("name").unwrap_or_default());
        if kind != GATEWAY.kind {
            return Err(Carry::Broken(format!(
                "{step}: {id} has {kind} {name} as a parent, which does not say whether it can do \
                 that; leave the step out"
            )));
        }
        let namespace = text("namespace").unwrap_or(&self.plan.namespace);
        let look = Look::elsewhere(GATEWAY, Some(namespace), name);
        let Some(gateway) = self.list(&look, "Gateways")?.first() else {
            return wait(format!("{step}: Gateway {namespace}/{name} does not exist"));
        };
        let class = gateway.data.pointer("/spec/gatewayClassName").and_then(Value::as_str);
        let class = class.unwrap_or_default();
        match self.list(&Look::elsewhere(CLASS, None, class), "GatewayClasses")?.first() {
            Some(class) => Ok(class),
            None => wait(format!("{step}: GatewayClass {class} does not exist")),
        }
    }
}

/// Names of the features that a route needs beyond what every router has to have.
fn needed(to: &Setting) -> Vec<&'static str> {
    let Setting::Mirror { percentage, matches } = to else { return vec![] };
    let mut all = vec!["HTTPRouteRequestMirror"];
    if percentage.is_some_and(|p| p < 100) {
        all.push("HTTPRouteRequestPercentageMirror");
    }
    // One that does not look at methods would copy everything.
    if matches.iter().any(|m| m.method.is_some()) {
        all.push("HTTPRouteMethodMatching");
    }
    all
}

/// Whether a class lists a feature: as an object with a name, or by the name alone as before
/// Gateway API 1.2.
fn lists(class: &DynamicObject, feature: &str) -> bool {
    let listed = class.data.pointer("/status/supportedFeatures").and_then(Value::as_array);
    let name = |f: &Value| f.get("name").unwrap_or(f).as_str() == Some(feature);
    listed.is_some_and(|all| all.iter().any(name))
}
