//! Weighted lists of backends, as every router but one has them: what a split makes of a list, and
//! the list that it was made of.

use super::Names;
use serde_json::{Value, json};

/// How an entry of a list names its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// `backendRefs` of an HTTPRoute.
    Gateway,
    /// `backends` of a TrafficSplit.
    Smi,
    /// `route` of a VirtualService, by host.
    Host,
    /// `route` of a VirtualService, by subsets of one host.
    Subset {
        /// Name of the stable subset.
        stable: String,
        /// Name of the canary's subset.
        canary: String,
    },
}

/// Whose an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The user's own Service.
    Root,
    /// One that is there for the time of the upgrade.
    Ours,
}

impl Style {
    /// Whose an entry is; none where it is about something else.
    pub(super) fn role(&self, entry: &Value, names: &Names) -> Option<Role> {
        let name = match self {
            Self::Gateway => {
                let is = |key: &str, wanted: &[&str]| {
                    entry.get(key).and_then(Value::as_str).is_none_or(|v| wanted.contains(&v))
                };
                let local = is("kind", &["Service"])
                    && is("group", &["", "core"])
                    && is("namespace", &[names.namespace.as_str()]);
                local.then(|| entry.get("name")?.as_str()).flatten()?
            }
            Self::Smi => entry.get("service")?.as_str()?,
            Self::Host | Self::Subset { .. } => {
                names.short(entry.pointer("/destination/host")?.as_str()?)?
            }
        };
        if let Self::Subset { stable, canary } = self {
            let subset = entry.pointer("/destination/subset").and_then(Value::as_str);
            let known = subset.is_none_or(|s| s == stable || s == canary);
            return (names.is_root(name) && known).then_some(Role::Root);
        }
        if name == names.stable || name == names.canary {
            return Some(Role::Ours);
        }
        names.is_root(name).then_some(Role::Root)
    }

    fn weight(&self, entry: &Value, alone: bool) -> i64 {
        let absent = match self {
            Self::Gateway => 1,
            _ => i64::from(alone),
        };
        // SMI's schema takes any number.
        let written = entry.get("weight");
        written.and_then(Value::as_i64).unwrap_or(absent)
    }

    fn entry(&self, template: &Value, stable: bool, weight: i64, names: &Names) -> Value {
        let mut entry = template.clone();
        let service = if stable { &names.stable } else { &names.canary };
        let (pointer, value) = match self {
            Self::Gateway => ("/name", service),
            Self::Smi => ("/service", service),
            Self::Host => ("/destination/host", service),
            Self::Subset { stable: s, canary: c } => {
                if let Some(to) = entry.get_mut("destination").and_then(Value::as_object_mut) {
                    to.insert("subset".to_owned(), json!(if stable { s } else { c }));
                }
                ("", service)
            }
        };
        if let Some(slot) = entry.pointer_mut(pointer).filter(|_| !pointer.is_empty()) {
            *slot = json!(value);
        }
        if let Some(object) = entry.as_object_mut() {
            object.insert("weight".to_owned(), json!(weight));
        }
        entry
    }

    /// A list with the canary at a weight in percent. What has weight 0 is left out: a router may
    /// not know what to do with a backend that has no endpoints.
    pub(super) fn carry(&self, original: &Value, names: &Names, weight: i32) -> Value {
        let Some(list) = original.as_array() else { return original.clone() };
        let (ours, others): (Vec<&Value>, Vec<&Value>) =
            list.iter().partition(|e| self.role(e, names).is_some());
        let alone = list.len() == 1;
        let share: i64 = ours.iter().map(|e| self.weight(e, alone)).sum();
        let Some(template) = ours.first().filter(|_| share > 0) else { return original.clone() };
        let weight = i64::from(weight.clamp(0, 100));
        let share = if others.is_empty() { 1 } else { share };
        let mut weights = vec![share * (100 - weight), share * weight];
        weights.extend(others.iter().map(|e| self.weight(e, false) * 100));
        if !others.is_empty() {
            let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
            for weight in &mut weights {
                *weight /= divisor;
            }
        }
        let mut new = Vec::with_capacity(list.len() + 1);
        let mut rest = weights.iter().skip(2);
        for entry in list {
            if std::ptr::eq(entry, *template) {
                let pair = [true, false].into_iter().zip(&weights).filter(|(_, w)| **w > 0);
                new.extend(pair.map(|(stable, w)| self.entry(template, stable, *w, names)));
            } else if self.role(entry, names).is_none() {
                let mut entry = entry.clone();
                if let (Some(object), Some(weight)) = (entry.as_object_mut(), rest.next()) {
                    object.insert("weight".to_owned(), json!(weight));
                }
                new.push(entry);
            }
        }
        Value::Array(new)
    }

    /// Whether a list names what is there for the time of the upgrade only.
    pub(super) fn mentions(&self, list: &Value, names: &Names) -> bool {
        let mut entries = list.as_array().into_iter().flatten();
        entries.any(|e| self.role(e, names) == Some(Role::Ours))
    }

    /// Whether a list is what a split makes of another, whatever the weights.
    pub(super) fn made_of(&self, list: &Value, original: &Value, names: &Names) -> bool {
        [0, 50, 100].iter().any(|w| shape(&self.carry(original, names, *w)) == shape(list))
    }

    /// The list that one of ours was made of, where it was not noted: the user's Service has the
    /// share of both of ours.
    pub(super) fn undo(&self, list: &Value, names: &Names) -> Value {
        let entries: Vec<&Value> = list.as_array().into_iter().flatten().collect();
        let ours = |e: &&&Value| self.role(e, names) == Some(Role::Ours);
        let share: i64 = entries.iter().filter(ours).map(|e| self.weight(e, true)).sum();
        let others = entries.iter().filter(|e| !ours(e)).map(|e| self.weight(e, false));
        let divisor = others.fold(share, gcd).max(1);
        let own = Names { stable: names.root.clone(), ..names.clone() };
        let mut seen = false;
        let back = entries.iter().filter_map(|entry| {
            if ours(&entry) {
                let first = !std::mem::replace(&mut seen, true);
                return first.then(|| self.entry(entry, true, (share / divisor).max(1), &own));
            }
            let mut entry = (*entry).clone();
            if let Some(weight) = entry.get_mut("weight") {
                *weight = json!(weight.as_i64().unwrap_or(0) / divisor);
            }
            Some(entry)
        });
        Value::Array(back.collect())
    }

    /// The canary's share of what a list of ours sends to the workload, in percent.
    pub(super) fn share(&self, list: &Value, names: &Names) -> Option<i32> {
        let (mut stable, mut canary) = (0, 0);
        for entry in list.as_array()? {
            let at = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str);
            let (is_stable, is_canary) = match self {
                Self::Gateway => {
                    (at("/name") == Some(&names.stable), at("/name") == Some(&names.canary))
                }
                Self::Smi => {
                    (at("/service") == Some(&names.stable), at("/service") == Some(&names.canary))
                }
                Self::Host => {
                    let host = at("/destination/host").and_then(|h| names.short(h));
                    (host == Some(&names.stable), host == Some(&names.canary))
                }
                Self::Subset { stable, canary } => {
                    let subset = at("/destination/subset");
                    (subset == Some(stable), subset == Some(canary))
                }
            };
            if self.role(entry, names).is_some() {
                stable += if is_stable { self.weight(entry, true) } else { 0 };
                canary += if is_canary { self.weight(entry, true) } else { 0 };
            }
        }
        let all = stable + canary;
        (all > 0).then(|| i32::try_from((100 * canary + all / 2) / all).unwrap_or(0))
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn shape(list: &Value) -> Value {
    let mut list = list.clone();
    for entry in list.as_array_mut().into_iter().flatten() {
        if let Some(object) = entry.as_object_mut() {
            object.remove("weight");
        }
    }
    list
}
