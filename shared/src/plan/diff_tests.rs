use super::*;
use serde_json::json;

fn id(kind: &str) -> ObjectId {
    ObjectId { api_version: "v1".into(), kind: kind.into(), namespace: None, name: "x".into() }
}

fn deployment(pod: impl Into<Value>) -> Value {
    json!({"metadata": {"name": "x"}, "spec": {"template": {"spec": pod.into()}}})
}

fn check(kind: &str, target: &Value, live: &Value) -> (Vec<String>, Vec<String>) {
    let Comparison::Live { images, other } = compare(&id(kind), target, Some(live)) else {
        return (vec![], vec!["new".into()]);
    };
    let images =
        images.iter().map(|c| format!("{}: {} -> {}", c.container, c.from, c.to)).collect();
    (images, other.into_iter().map(|d| d.path).collect())
}

fn same(target: Value, live: Value) {
    assert_eq!(check("Deployment", &deployment(target), &deployment(live)), (vec![], vec![]));
}

#[test]
fn spelling_defaults_and_order_are_no_difference() {
    let c = |rest: Value| {
        let mut c = json!({"name": "web", "image": "r/web:v1"});
        if let (Some(c), Value::Object(rest)) = (c.as_object_mut(), rest) {
            c.extend(rest);
        }
        json!({"containers": [c]})
    };
    same(
        c(json!({"resources": {"limits": {"cpu": 0.1, "memory": "1Gi"}}})),
        c(json!({"resources": {"limits": {"memory": "1024Mi", "cpu": "100m"}}})),
    );
    same(
        c(json!({"readinessProbe": {"httpGet": {"port": "8080"}}})),
        c(json!({"readinessProbe": {"httpGet": {"port": 8080}, "periodSeconds": 10}})),
    );
    same(
        c(json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": ""}]})),
        c(json!({"env": [{"name": "B"}, {"name": "A", "value": "1"}]})),
    );
    same(
        c(json!({"ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]})),
        c(
            json!({"ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 80, "protocol": "TCP"}]}),
        ),
    );
    same(
        json!({"containers": [], "hostNetwork": false, "nodeSelector": {}, "tolerations": null}),
        json!({"containers": [{"name": "sidecar", "image": "i"}], "restartPolicy": "Always"}),
    );
    same(
        json!({"containers": [{"name": "a", "image": "nginx"}, {"name": "b", "image": "r/b:1"}]}),
        json!({"containers": [{"name": "b", "image": "r/b:1"}, {"name": "a", "image": "docker.io/library/nginx:latest"}]}),
    );
}

#[test]
fn images_are_told_apart_from_everything_else() {
    let target = deployment(json!({
        "initContainers": [{"name": "init", "image": "busybox:1.37"}],
        "containers": [{"name": "web", "image": "r/web:v2", "args": ["-v"]}],
        "volumes": [{"name": "tmp", "emptyDir": {}}]}));
    let live = deployment(json!({
        "initContainers": [{"name": "init", "image": "busybox"}],
        "containers": [{"name": "web", "image": "r/web:v1", "args": ["-q"], "command": ["web"]}],
        "volumes": [{"name": "tmp", "hostPath": {"path": "/tmp"}}]}));
    let (images, other) = check("Deployment", &target, &live);
    assert_eq!(images, ["web: r/web:v1 -> r/web:v2", "init: busybox -> busybox:1.37"]);
    assert_eq!(
        other,
        ["spec.template.spec.containers[web].args", "spec.template.spec.volumes[tmp].emptyDir"]
    );
}

#[test]
fn a_quantity_is_one_only_where_the_api_reads_one() {
    let env = |v: &str| {
        deployment(json!({"containers": [{"name": "a", "env": [{"name": "X", "value": v}]}]}))
    };
    let (_, other) = check("Deployment", &env("0.1"), &env("100m"));
    assert_eq!(other, ["spec.template.spec.containers[a].env[X].value"]);
    let service = |port: Value| json!({"spec": {"ports": [{"port": 80, "targetPort": port}]}});
    assert_eq!(
        check("Service", &service(json!(8080)), &service(json!("8080"))).1,
        Vec::<String>::new()
    );
    assert_eq!(
        check("Service", &service(json!(8080)), &service(json!("http"))).1,
        ["spec.ports[80/TCP].targetPort"]
    );
}

#[test]
fn what_a_manifest_stopped_writing_counts_if_apply_wrote_it() {
    let env = |names: &[&str]| {
        let env: Vec<_> = names.iter().map(|n| json!({"name": n, "value": "1"})).collect();
        deployment(json!({"containers": [{"name": "a", "env": env}]}))
    };
    let mut live = env(&["A", "B", "INJECTED"]);
    assert_eq!(check("Deployment", &env(&["A"]), &live).1, Vec::<String>::new());
    live["metadata"]["annotations"] = json!({LAST_APPLIED: env(&["A", "B"]).to_string()});
    assert_eq!(
        check("Deployment", &env(&["A"]), &live).1,
        ["spec.template.spec.containers[a].env[B]"]
    );
}

#[test]
fn a_new_container_is_not_an_image_change() {
    let one = deployment(json!({"containers": [{"name": "a", "image": "a:1"}]}));
    let two = deployment(
        json!({"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]}),
    );
    let (images, other) = check("Deployment", &two, &one);
    assert_eq!((images, other), (vec![], vec!["spec.template.spec.containers[b]".to_owned()]));
}

#[test]
fn a_secret_is_compared_decoded_and_never_shown() {
    let target = json!({"stringData": {"key": "open sesame"}});
    let live = json!({"data": {"key": "b3BlbiBzZXNhbWU="}});
    assert_eq!(check("Secret", &target, &live).1, Vec::<String>::new());
    let other = json!({"data": {"key": "c2h1dA=="}});
    let Comparison::Live { other, .. } = compare(&id("Secret"), &target, Some(&other)) else {
        return;
    };
    assert_eq!(other[0].path, "data.key");
    assert_eq!(other[0].target, Some(json!("<redacted>")));
}

#[test]
fn no_live_object_is_new() {
    assert_eq!(compare(&id("Service"), &json!({}), None), Comparison::New);
    assert!(!Comparison::New.is_same());
}
