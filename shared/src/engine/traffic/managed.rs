//! HTTPRoutes of our own beside the user's: some requests go to the canary by their headers, or are
//! sent to it a second time.
//!
//! Such a route has the parents and host names of the user's and, of its rules, those that send to
//! the workload, each match with something more to it. That is what makes a router prefer it: of
//! matches with the same path, those with a method win, then those with the most headers, also across
//! routes (Gateway API specification, `HTTPRouteRule.matches`). No path is ever longer than the
//! user's, for it could belong to somebody else's route. The user's other rules at the same path come
//! along unchanged, so that they are preferred where they were.

use super::Names;
use super::refs::Style;
use super::round::{Carry, Scene, Seen, Step, remove, wait, whole};
use super::routes::{Carrier, Part, ROUTE};
use super::services;
use crate::api::managed_route::{MirrorMatch, StringMatch};
use crate::api::strategy::Canary;
use crate::api::traffic::{RouteOriginal, TrafficPhase};
use crate::engine::Walk;
use crate::engine::effect::ObjectWrite;
use crate::engine::managed::{RouteStep, Setting};
use kube::core::DynamicObject;
use serde_json::{Map, Value, json};

/// The routes that steps may make, one for each of the user's routes.
pub(super) fn parts(workload: &str, managed: &[String], routes: &[String]) -> Vec<Part> {
    let workload = workload.get(..120).unwrap_or(workload);
    let mut parts = vec![];
    for name in managed {
        for (i, route) in routes.iter().enumerate() {
            // No name of a step has a dot.
            let end = if i == 0 { String::new() } else { format!(".{}", i + 1) };
            parts.push(Part {
                resource: ROUTE,
                name: format!("{workload}-{name}{end}"),
                how: Carrier::Managed { name: name.clone(), of: route.clone() },
            });
        }
    }
    parts
}

/// Names of the HTTPRoutes that the steps of a canary make, of a workload.
pub fn own_routes(canary: &Canary, workload: &str) -> Vec<String> {
    let gateway = canary.traffic_routing.as_ref().and_then(|r| r.gateway_api.as_ref());
    let names = crate::engine::managed::names(canary).unwrap_or_default();
    let parts = gateway.map(|g| parts(workload, &names, &g.names())).unwrap_or_default();
    parts.into_iter().map(|p| p.name).collect()
}

/// Name of the step's route and of the user's, where a part is one of ours.
fn managed(part: &Part) -> Option<(&str, &str)> {
    match &part.how {
        Carrier::Managed { name, of } => Some((name, of)),
        _ => None,
    }
}

impl<'a> Walk<'a> {
    /// Takes away what is not to be there: before anything else on the way down, whatever the user's
    /// route has become. Whether any was.
    pub(super) fn unroute(
        &mut self,
        scene: &Scene<'a>,
        objects: &[Seen<'a>],
        weight: i32,
    ) -> Step<bool> {
        let mut wrote = false;
        for (part, object) in objects {
            let (Some((name, of)), Some(object)) = (managed(part), object) else { continue };
            if !services::is_ours(object, &self.plan.name, &scene.uid) {
                if scene.note.phase == TrafficPhase::Pinning {
                    return Err(taken(part));
                }
                continue;
            }
            let there = objects.iter().any(|(p, o)| p.name == of && o.is_some());
            let wanted = is_split(weight) && there && scene.managed.iter().any(|r| r.name == name);
            if !wanted {
                self.put(part.write(remove(object), "not wanted any more".to_owned()));
                wrote = true;
            }
        }
        Ok(wrote)
    }

    /// Makes what is to be there: only beside a weight, for only then both Services have ready
    /// endpoints that routers know of. Whether any was written.
    pub(super) fn route(
        &mut self,
        scene: &Scene<'a>,
        objects: &[Seen<'a>],
        weight: i32,
    ) -> Step<bool> {
        if !is_split(weight) {
            return Ok(false);
        }
        let mut wrote = false;
        for step in &scene.managed {
            let mut placed = false;
            for (part, object) in objects {
                let Some((_, of)) = managed(part).filter(|(name, _)| *name == step.name) else {
                    continue;
                };
                let user = objects.iter().find(|(p, _)| p.name == of && managed(p).is_none());
                let Some((user, Some(route))) = user else { continue };
                match object {
                    Some(o) if !services::is_ours(o, &self.plan.name, &scene.uid) => {
                        return Err(taken(part));
                    }
                    Some(_) => {}
                    None => self.able(objects, step)?,
                }
                let (names, known) = (&scene.names, &scene.note.originals);
                let spec = spec(user, &whole(route), names, known, step);
                placed |= spec.is_some();
                let next = self.beside(scene, part, *object, spec, step)?;
                wrote |= next.is_some();
                if let Some(next) = next {
                    self.put(next);
                }
            }
            if !placed {
                return wait(format!(
                    "no rule of the HTTPRoute has room for {step}: it needs one that sends to Service \
                     {} and does not ask for the same headers or method",
                    scene.note.service
                ));
            }
        }
        Ok(wrote)
    }

    /// The next write of one route of ours.
    fn beside(
        &self,
        scene: &Scene<'a>,
        part: &Part,
        object: Option<&DynamicObject>,
        spec: Option<Value>,
        step: &RouteStep,
    ) -> Step<Option<ObjectWrite>> {
        let Some(spec) = spec else {
            return Ok(object.map(|o| part.write(remove(o), "no rule for it".to_owned())));
        };
        let now = object.and_then(|o| o.data.get("spec"));
        let spec = attached(now, spec).ok_or_else(|| without_percent(part))?;
        if now.is_some_and(|now| agrees(now, &spec)) {
            return Ok(None);
        }
        Ok(self.own_object(scene, part, object, None, &spec, step.to_string()))
    }
}

/// Both versions get traffic.
fn is_split(weight: i32) -> bool {
    weight > 0 && weight < 100
}

fn taken(part: &Part) -> Carry {
    Carry::Broken(format!(
        "HTTPRoute {} is there already, and is not this Upgrade's; delete it, or give the route of \
         the step another name",
        part.name
    ))
}

/// CRDs of the Gateway API before 1.3 drop the share of a mirror, and then all requests would be
/// copied. So one with a share is attached to its parents only once the share was kept; none where it
/// was not.
pub(super) fn attached(now: Option<&Value>, mut wanted: Value) -> Option<Value> {
    let has_share = |spec: &Value| spec.to_string().contains("\"percent\":");
    if !has_share(&wanted) || now.is_some_and(has_share) {
        return Some(wanted);
    }
    let parents = wanted.as_object_mut()?.remove("parentRefs");
    let tried = parents.is_some() && now.is_some_and(|n| n.get("parentRefs").is_none());
    (!tried).then_some(wanted)
}

fn without_percent(part: &Part) -> Carry {
    Carry::Broken(format!(
        "{}: the HTTPRoutes of this cluster keep no share of a mirror (Gateway API 1.3 does); leave \
         out setMirrorRoute.percentage to have all of its requests copied",
        part.id()
    ))
}

/// The spec of a route of ours; none where no match of the user's can be narrowed.
pub(super) fn spec(
    user: &Part,
    route: &Value,
    names: &Names,
    known: &[RouteOriginal],
    step: &RouteStep,
) -> Option<Value> {
    let mut spec = route.get("spec")?.clone();
    let lists = user.fields(route, names, known);
    let original = |i: usize| {
        let pointer = format!("/spec/rules/{i}/backendRefs");
        lists.iter().find(|(p, _)| *p == pointer).and_then(|(_, list)| backends(list, names, step))
    };
    let rules = spec.get("rules")?.as_array()?.clone();
    let narrow = |m: &Value| narrowed(m, &step.to);
    let mut paths: Vec<Value> = vec![];
    for (_, rule) in rules.iter().enumerate().filter(|(i, _)| original(*i).is_some()) {
        let all = matches(rule).into_iter().filter(|m| !narrow(m).is_empty());
        paths.extend(all.map(|m| path(&m)));
    }
    let rules: Vec<Value> = rules
        .iter()
        .enumerate()
        .filter_map(|(i, rule)| {
            let all = matches(rule).into_iter().filter(|m| paths.contains(&path(m)));
            let narrow: Vec<Value> = all.flat_map(|m| narrow(&m)).collect();
            let mut rule = rule.as_object()?.clone();
            if let Some(list) = original(i) {
                mirror(&mut rule, &list, names, &step.to);
                rule.insert("backendRefs".to_owned(), list);
            }
            rule.insert("matches".to_owned(), json!(narrow));
            (!narrow.is_empty()).then_some(Value::Object(rule))
        })
        .collect();
    spec.as_object_mut()?.insert("rules".to_owned(), Value::Array(rules));
    (!paths.is_empty()).then_some(spec)
}

/// Where requests go that the user's list sends to the workload.
fn backends(list: &Value, names: &Names, step: &RouteStep) -> Option<Value> {
    let style = Style::Gateway;
    let new = match &step.to {
        Setting::Header(_) => {
            let all = list.as_array()?.iter().filter(|e| style.role(e, names).is_some());
            style.carry(&all.cloned().collect(), names, 100)
        }
        _ => style.carry(list, names, 0),
    };
    // One without a share stays as it is, and is not about the workload.
    style.mentions(&new, names).then_some(new)
}

/// Adds the copy to the canary.
fn mirror(rule: &mut Map<String, Value>, list: &Value, names: &Names, to: &Setting) {
    let Setting::Mirror { percentage, .. } = to else { return };
    let entries = list.as_array().into_iter().flatten();
    let stable = entries.into_iter().find(|e| e["name"] == names.stable.as_str());
    let mut backend = json!({"group": "", "kind": "Service", "name": names.canary});
    for key in ["namespace", "port"] {
        if let (Some(value), Some(to)) = (stable.and_then(|s| s.get(key)), backend.as_object_mut())
        {
            to.insert(key.to_owned(), value.clone());
        }
    }
    let mut filter = json!({"type": "RequestMirror", "requestMirror": {"backendRef": backend}});
    if let (Some(percent), Some(to)) = (
        percentage.filter(|p| *p < 100),
        filter.pointer_mut("/requestMirror").and_then(Value::as_object_mut),
    ) {
        to.insert("percent".to_owned(), json!(percent));
    }
    if let Some(filters) = rule.entry("filters").or_insert_with(|| json!([])).as_array_mut() {
        filters.push(filter);
    }
}

/// The matches of a rule; one without any is about everything.
fn matches(rule: &Value) -> Vec<Value> {
    let all = rule.get("matches").and_then(Value::as_array).filter(|m| !m.is_empty());
    let whole = |m: &Value| {
        let mut m = m.clone();
        let path = path(&m);
        if let Some(object) = m.as_object_mut() {
            object.insert("path".to_owned(), path);
        }
        m
    };
    all.map_or_else(|| vec![whole(&json!({}))], |all| all.iter().map(whole).collect())
}

fn path(of: &Value) -> Value {
    of.get("path").cloned().unwrap_or_else(|| json!({"type": "PathPrefix", "value": "/"}))
}

/// A match of the user's with what a step adds to it: none where that adds nothing, or contradicts.
fn narrowed(of: &Value, to: &Setting) -> Vec<Value> {
    match to {
        Setting::Gone => vec![],
        Setting::Header(list) => {
            let headers = list.iter().map(|m| (m.header_name.as_str(), &m.header_value));
            let found = with_headers(of, headers);
            found.filter(|m| m != of).into_iter().collect()
        }
        Setting::Mirror { matches, .. } => matches.iter().filter_map(|m| mirrored(of, m)).collect(),
    }
}

fn mirrored(of: &Value, wanted: &MirrorMatch) -> Option<Value> {
    if !wanted.path.as_ref().is_none_or(|p| covers(p, of)) {
        return None;
    }
    let mut new = with_headers(of, wanted.headers.iter().map(|(n, v)| (n.as_str(), v)))?;
    if let Some(method) = wanted.method.as_ref().and_then(|m| m.exact.as_deref()) {
        if of.get("method").is_some_and(|m| m != method) {
            return None;
        }
        new.as_object_mut()?.insert("method".to_owned(), json!(method));
    }
    (new != *of).then_some(new)
}

/// Whether all paths of a match are among those that are asked for; prefixes are of whole elements,
/// as in the Gateway API.
fn covers(wanted: &StringMatch, of: &Value) -> bool {
    let (kind, value) = (&of["path"]["type"], of["path"]["value"].as_str().unwrap_or("/"));
    match (&wanted.exact, &wanted.prefix) {
        (Some(exact), _) => *kind == "Exact" && value == exact,
        (_, Some(prefix)) => {
            let prefix = prefix.trim_end_matches('/');
            let rest = value.strip_prefix(prefix);
            *kind != "RegularExpression" && rest.is_some_and(|r| r.is_empty() || r.starts_with('/'))
        }
        _ => false,
    }
}

/// A match with more headers; none where one is there already with another value.
fn with_headers<'h>(
    of: &Value,
    headers: impl Iterator<Item = (&'h str, &'h StringMatch)>,
) -> Option<Value> {
    let mut new = of.clone();
    let mut list: Vec<Value> =
        of.get("headers").and_then(Value::as_array).cloned().unwrap_or_default();
    let before = list.len();
    for (name, value) in headers {
        let (kind, value) = pattern(value)?;
        let there = |h: &&Value| h["name"].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name));
        match list.iter().find(there) {
            Some(h) if h["value"] == value.as_str() && is(h, kind) => {}
            Some(_) => return None,
            None => list.push(json!({"type": kind, "name": name, "value": value})),
        }
    }
    if list.len() > before {
        new.as_object_mut()?.insert("headers".to_owned(), Value::Array(list));
    }
    Some(new)
}

/// Whether a header of the user's is matched in this way; `Exact` is what it is where it says
/// nothing.
fn is(header: &Value, kind: &str) -> bool {
    header.get("type").and_then(Value::as_str).unwrap_or("Exact") == kind
}

/// Kind and value of a header match. A prefix is an expression with both ends marked: some routers
/// look for it anywhere, some compare the whole value.
fn pattern(value: &StringMatch) -> Option<(&'static str, String)> {
    const REGEX: &str = "RegularExpression";
    if let Some(exact) = &value.exact {
        return Some(("Exact", exact.clone()));
    }
    if let Some(regex) = &value.regex {
        return Some((REGEX, regex.clone()));
    }
    let mut text = "^".to_owned();
    for c in value.prefix.as_ref()?.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            text.push('\\');
        }
        text.push(c);
    }
    Some((REGEX, text + ".*$"))
}

/// Whether an object says what is wanted: plain values that a server has added to it are no
/// difference, or each of its defaults would be written against for ever.
fn agrees(now: &Value, wanted: &Value) -> bool {
    match (now, wanted) {
        (Value::Object(now), Value::Object(wanted)) => {
            wanted.iter().all(|(k, w)| now.get(k).is_some_and(|n| agrees(n, w)))
                && now
                    .iter()
                    .all(|(k, n)| wanted.contains_key(k) || !n.is_object() && !n.is_array())
        }
        (Value::Array(now), Value::Array(wanted)) => {
            now.len() == wanted.len() && now.iter().zip(wanted).all(|(n, w)| agrees(n, w))
        }
        _ => now == wanted,
    }
}
