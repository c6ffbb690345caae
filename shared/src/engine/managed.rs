//! Steps of a canary that make routes of their own, as Argo Rollouts has them: what they say, and
//! which of them hold at a step.

use super::steps::Step;
use crate::api::managed_route::{HeaderMatch, MirrorMatch, StringMatch};
use crate::api::strategy::{Canary, CanaryStep};

/// What a step says of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteStep {
    /// Name of the route, a DNS label.
    pub name: String,
    /// What is to become of it.
    pub to: Setting,
}

/// What a route of ours is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Requests with all of these headers go to the canary.
    Header(Vec<HeaderMatch>),
    /// Requests that one of these is about go to the canary, too.
    Mirror {
        /// Share of them, in percent; all where absent.
        percentage: Option<i32>,
        /// Which requests.
        matches: Vec<MirrorMatch>,
    },
    /// It is taken away.
    Gone,
}

impl std::fmt::Display for RouteStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = &self.name;
        match &self.to {
            Setting::Header(_) => write!(f, "header route {name}"),
            Setting::Mirror { percentage: Some(p), .. } => write!(f, "mirror route {name} {p} %"),
            Setting::Mirror { percentage: None, .. } => write!(f, "mirror route {name}"),
            Setting::Gone => write!(f, "no route {name}"),
        }
    }
}

/// The routes that are to be there at a step: the last word on each name.
pub(super) fn in_force(steps: &[Step], at: usize) -> Vec<&RouteStep> {
    let mut last: Vec<&RouteStep> = vec![];
    for step in steps.iter().take(at.saturating_add(1)) {
        let Step::Route(route) = step else { continue };
        last.retain(|r| r.name != route.name);
        last.push(route);
    }
    last.retain(|r| r.to != Setting::Gone);
    last
}

/// Reads a step about a route; none where it is about something else.
pub fn read(step: &CanaryStep) -> Option<Result<RouteStep, String>> {
    match (&step.set_header_route, &step.set_mirror_route) {
        (Some(header), None) => {
            let route = RouteStep {
                name: header.name.clone(),
                to: match header.matches.as_slice() {
                    [] => Setting::Gone,
                    all => Setting::Header(all.to_vec()),
                },
            };
            let fine = named("setHeaderRoute", &route.name).and_then(|()| of_header(header));
            Some(fine.map(|()| route))
        }
        (None, Some(mirror)) => {
            let (percentage, matches) = (mirror.percentage, mirror.matches.clone());
            let gone = matches.is_empty();
            let to = if gone { Setting::Gone } else { Setting::Mirror { percentage, matches } };
            let fine = named("setMirrorRoute", &mirror.name).and_then(|()| of_mirror(mirror));
            Some(fine.map(|()| RouteStep { name: mirror.name.clone(), to }))
        }
        _ => None,
    }
}

/// Whether the last of these steps, about a route, can be where it is, after so much weight.
pub(super) fn in_place(steps: &[Step], weight: i32) -> Result<(), String> {
    let Some(Step::Route(route)) = steps.last() else { return Ok(()) };
    if route.to == Setting::Gone {
        return Ok(());
    }
    if weight == 0 {
        return Err(format!(
            "{route} comes before the first setWeight, when there are no canary pods; put a \
             setWeight before it"
        ));
    }
    if weight >= 100 {
        return Err(format!(
            "{route} comes after setWeight 100, when all traffic goes to the new pods; put it \
             before that step"
        ));
    }
    let all = in_force(steps, steps.len());
    let header = all.iter().find(|r| matches!(r.to, Setting::Header(_)));
    let by_method = all.iter().find(|r| match &r.to {
        Setting::Mirror { matches, .. } => matches.iter().any(|m| m.method.is_some()),
        _ => false,
    });
    // Routers look at methods before headers, so that the mirror would win.
    if let (Some(header), Some(mirror)) = (header, by_method) {
        return Err(format!(
            "{mirror} goes by method, and would take requests from {header}; let it go by headers, \
             or take one of them away first"
        ));
    }
    Ok(())
}

/// Names of all routes that a canary's steps make, where its router can have them.
pub(super) fn names(canary: &Canary) -> Result<Vec<String>, String> {
    let routing = canary.traffic_routing.as_ref();
    let listed = routing.map(|r| r.managed_routes.as_slice()).unwrap_or_default();
    let mut names: Vec<String> = vec![];
    for (at, step) in canary.steps.iter().enumerate() {
        let field =
            if step.set_header_route.is_some() { "setHeaderRoute" } else { "setMirrorRoute" };
        let header = step.set_header_route.as_ref().map(|r| &r.name);
        let Some(name) = header.or(step.set_mirror_route.as_ref().map(|r| &r.name)) else {
            continue;
        };
        if routing.is_none_or(|r| r.gateway_api.is_none()) {
            return Err(format!(
                "steps[{at}].{field} needs trafficRouting.gatewayAPI; with nginx, \
                 trafficRouting.nginx.additionalIngressAnnotations: {{canary-by-header: NAME}} sends \
                 requests with a header to the canary; elsewhere, leave the step out"
            ));
        }
        if !listed.is_empty() && !listed.iter().any(|r| r.name == *name) {
            return Err(format!(
                "steps[{at}].{field}: {name} is not in trafficRouting.managedRoutes; add it, or \
                 leave the list out"
            ));
        }
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    Ok(names)
}

fn named(field: &str, name: &str) -> Result<(), String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edge = name.starts_with('-') || name.ends_with('-');
    if name.is_empty() || name.len() > 63 || edge || !name.chars().all(inner) {
        return Err(format!(
            "{field}.name is `{name}`; it is a DNS label: lower-case letters, digits and `-`, at \
             most 63"
        ));
    }
    Ok(())
}

fn of_header(route: &crate::api::managed_route::SetHeaderRoute) -> Result<(), String> {
    let headers = route.matches.iter().map(|m| (m.header_name.as_str(), &m.header_value));
    of_headers("setHeaderRoute.match", headers)
}

fn of_mirror(route: &crate::api::managed_route::SetMirrorRoute) -> Result<(), String> {
    if let Some(percentage) = route.percentage.filter(|p| !(1..=100).contains(p)) {
        return Err(format!("setMirrorRoute.percentage is {percentage}; it is from 1 to 100"));
    }
    for (i, part) in route.matches.iter().enumerate() {
        let field = format!("setMirrorRoute.match[{i}]");
        if part.headers.is_empty() && part.method.is_none() {
            return Err(format!(
                "{field} names neither headers nor a method: a router would not prefer it to your \
                 route; add one of them"
            ));
        }
        let method = |m: &StringMatch| {
            let known =
                ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
            m.exact.as_deref().is_some_and(|e| known.contains(&e))
                && m.prefix.is_none()
                && m.regex.is_none()
        };
        if part.method.as_ref().is_some_and(|m| !method(m)) {
            return Err(format!("{field}.method is `exact` with one method, for instance GET"));
        }
        if let Some(path) = &part.path {
            one(path).map_err(|why| format!("{field}.path {why}"))?;
            if path.regex.is_some() {
                return Err(format!("{field}.path is `exact` or `prefix`"));
            }
        }
        of_headers(&format!("{field}.headers"), part.headers.iter().map(|(n, v)| (n.as_str(), v)))?;
    }
    Ok(())
}

/// Headers as an HTTPRoute takes them: each name once, whatever its case.
fn of_headers<'h>(
    field: &str,
    headers: impl Iterator<Item = (&'h str, &'h StringMatch)>,
) -> Result<(), String> {
    let mut seen: Vec<String> = vec![];
    for (name, value) in headers {
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(token) {
            return Err(format!("{field}: `{name}` is no name of a header"));
        }
        let lower = name.to_ascii_lowercase();
        if seen.contains(&lower) {
            return Err(format!(
                "{field}: {name} is there twice; all headers must be there at once"
            ));
        }
        seen.push(lower);
        one(value).map_err(|why| format!("{field}: {name} {why}"))?;
    }
    Ok(())
}

fn one(value: &StringMatch) -> Result<(), String> {
    let all = [&value.exact, &value.prefix, &value.regex];
    let mut set = all.into_iter().flatten();
    match (set.next(), set.next()) {
        (Some(text), None) if !text.is_empty() => Ok(()),
        _ => Err("needs exactly one of `exact`, `prefix` and `regex`, not empty".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn steps(list: Value) -> Result<Vec<Step>, String> {
        let list: Vec<CanaryStep> = serde_json::from_value(list).expect("steps");
        super::super::steps::read(0, &list, false).map_err(|e| e.to_string())
    }

    fn header(name: &str) -> Value {
        json!({"setHeaderRoute": {"name": name,
            "match": [{"headerName": "X-Canary", "headerValue": {"exact": "yes"}}]}})
    }

    fn mirror(part: &Value) -> Value {
        json!({"setMirrorRoute": {"name": "copy", "percentage": 10, "match": [part]}})
    }

    #[test]
    fn the_last_word_on_a_name_holds() {
        let list = json!([{"setWeight": 10}, header("a"), header("b"),
            {"setHeaderRoute": {"name": "a"}}, {"setWeight": 50}, {"setMirrorRoute": {"name": "b"}},
            mirror(&json!({"headers": {"x": {"regex": "1"}}}))]);
        let steps = steps(list).expect("fine");
        let at = |i| in_force(&steps, i).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(at(0).is_empty());
        assert_eq!(at(1), ["header route a"]);
        assert_eq!(at(2), ["header route a", "header route b"]);
        assert_eq!(at(4), ["header route b"]);
        assert!(at(5).is_empty());
        assert_eq!(at(usize::MAX), ["mirror route copy 10 %"]);
        assert_eq!(steps[3].to_string(), "no route a");
        assert!(!steps[1].moves() && steps[1].rests() && !steps[1].is_rest());
    }

    #[test]
    fn what_a_router_could_not_do_is_refused_by_field() {
        let weight = json!({"setWeight": 10});
        let with = |part: Value| json!([weight, mirror(&part)]);
        let two = json!([{"headerName": "X", "headerValue": {"exact": "1"}},
            {"headerName": "x", "headerValue": {"exact": "2"}}]);
        for (list, part) in [
            (json!([header("a")]), "before the first setWeight"),
            (json!([{"setWeight": 100}, header("a")]), "after setWeight 100"),
            (json!([weight, header("A_b")]), "it is a DNS label"),
            (json!([weight, {"setHeaderRoute": {"name": "a", "match": two}}]), "twice"),
            (with(json!({"path": {"prefix": "/"}})), "neither headers nor a method"),
            (with(json!({"method": {"prefix": "G"}})), "match[0].method is `exact`"),
            (with(json!({"headers": {"x": {}}})), "headers: x needs exactly one of"),
            (with(json!({"headers": {"a b": {"exact": "1"}}})), "no name of a header"),
            (
                with(json!({"method": {"exact": "GET"}, "path": {"regex": "/"}})),
                "path is `exact` or `prefix`",
            ),
            (
                json!([weight, header("a"), mirror(&json!({"method": {"exact": "GET"}}))]),
                "by method",
            ),
            (json!([{"setWeight": 10, "setHeaderRoute": {"name": "a"}}]), "exactly one of"),
            (
                json!([{"setMirrorRoute": {"name": "a"}, "setHeaderRoute": {"name": "a"}}]),
                "exactly one of",
            ),
        ] {
            let error = steps(list).expect_err(part);
            assert!(error.contains(part) && error.contains("steps["), "{error}");
        }
    }

    #[test]
    fn names_need_a_router_that_can_and_a_place_in_the_list() {
        let read = |routing: Value| {
            let mut canary = json!({"steps": [{"setWeight": 10}, header("a"), header("a")]});
            if !routing.is_null() {
                canary["trafficRouting"] = routing;
            }
            names(&serde_json::from_value::<Canary>(canary).expect("a canary"))
        };
        let gateway = |more: Value| {
            let mut routing = json!({"gatewayAPI": {"httpRoute": "web"}});
            routing["managedRoutes"] = more;
            routing
        };
        assert_eq!(read(gateway(json!([]))).expect("fine"), ["a"]);
        assert_eq!(read(gateway(json!([{"name": "a"}]))).expect("fine"), ["a"]);
        let error = read(gateway(json!([{"name": "b"}]))).expect_err("not listed");
        assert!(error.contains("a is not in trafficRouting.managedRoutes"), "{error}");
        for other in [json!({"smi": {}}), json!({"nginx": {"stableIngress": "web"}}), Value::Null] {
            let error = read(other).expect_err("no router");
            assert!(error.contains("steps[1].setHeaderRoute needs"), "{error}");
            assert!(error.contains("canary-by-header"), "{error}");
        }
    }
}
