use crate::api::WorkloadKind;
use crate::policy::workload::{Guarded, Image, Workload, deltas, differ, same_json};
use proptest::prelude::*;
use serde_json::json;
use serde_json::value::RawValue;

fn raw(value: &serde_json::Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).expect("valid JSON")
}

fn pod(extra: &serde_json::Value) -> serde_json::Value {
    let mut spec = json!({"containers": [{"name": "b", "image": "b:1"}],
        "initContainers": [{"name": "a", "image": "a:1"}],
        "volumes": [{"name": "v", "image": {"reference": "v:1"}}, {"name": "e", "emptyDir": {}},
            {"name": "w", "csi": {"driver": "d", "volumeAttributes": {"image": "w:1", "a": "b"}}}]});
    for (key, value) in extra.as_object().expect("an object") {
        spec[key] = value.clone();
    }
    spec
}

#[test]
fn images_are_found_in_every_kind() {
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": pod(&json!({}))});
    for kind in WorkloadKind::ALL {
        let spec = match kind {
            WorkloadKind::Pod => pod(&json!({})),
            WorkloadKind::CronJob => json!({"jobTemplate": {"spec": {"template": template}}}),
            _ => json!({"template": template}),
        };
        let object = raw(&json!({"metadata": {"name": "w", "labels": {"app": "x"}}, "spec": spec}));
        let w = Workload::parse(kind, &object).expect("parses");
        let found: Vec<_> = w.images.iter().map(|i| (&*i.container, &*i.image)).collect();
        assert_eq!(
            found,
            [("a", "a:1"), ("b", "b:1"), ("volume:v", "v:1"), ("volume:w", "w:1")],
            "{kind}"
        );
        assert_eq!(w.pod_labels.get("app").map(String::as_str), Some("x"), "{kind}");
        assert!(w.template.is_some(), "{kind}");
    }
}

#[test]
fn missing_and_null_lists_are_empty() {
    for spec in [
        json!(null),
        json!({}),
        json!({"template": null}),
        json!({"template": {"spec": null}}),
        json!({"template": {"spec": {"containers": null, "volumes": null}}}),
    ] {
        let object = raw(&json!({"metadata": {"name": "w", "labels": null}, "spec": spec}));
        let w = Workload::parse(WorkloadKind::Deployment, &object).expect("parses");
        assert!(w.images.is_empty());
    }
    assert!(Workload::parse(WorkloadKind::Pod, &raw(&json!({"spec": {"containers": 7}}))).is_err());
    assert!(Workload::parse(WorkloadKind::Pod, &raw(&json!("text"))).is_err());
}

#[test]
fn guarded_fields_count_defaults_as_equal() {
    let read = |v: serde_json::Value| serde_json::from_value::<Guarded>(v).expect("parses");
    let unset = read(json!({}));
    let set = read(json!({"paused": false, "minReadySeconds": 0, "progressDeadlineSeconds": 600}));
    assert!(unset.differences(&set).is_empty());
    let moved = read(json!({"paused": true, "strategy": {"rollingUpdate": {"maxSurge": "10%"}}}));
    assert_eq!(unset.differences(&moved), ["spec.paused", "spec.strategy"]);
}

#[test]
fn json_is_compared_by_meaning() {
    let (a, b) = (
        raw(&json!({"a": 1, "b": [1]})),
        RawValue::from_string(r#"{ "b":[1],"a":1}"#.into()).expect("valid"),
    );
    assert!(same_json(Some(&a), Some(&b)));
    assert!(!same_json(Some(&a), None));
    assert!(!same_json(Some(&a), Some(&raw(&json!({"a": 1, "b": [2]})))));
}

fn set() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
    proptest::collection::btree_map("[a-d]", "[xyz]", 0..4)
}

fn list(of: &std::collections::BTreeMap<String, String>) -> Vec<Image<'_>> {
    of.iter().map(|(c, i)| Image { container: c.into(), image: i.into() }).collect()
}

proptest! {
    #[test]
    fn deltas_lead_from_old_to_new(old in set(), new in set()) {
        let found = deltas(&list(&old), &list(&new));
        prop_assert_eq!(found.is_empty(), old == new);
        prop_assert_eq!(differ(&list(&old), &list(&new)), old != new);
        let mut walked = old.clone();
        for d in found {
            prop_assert_eq!(walked.get(&d.container), d.from.as_ref());
            match d.to {
                Some(to) => walked.insert(d.container, to),
                None => walked.remove(&d.container),
            };
        }
        prop_assert_eq!(walked, new);
    }
}
