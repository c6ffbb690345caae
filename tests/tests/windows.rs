//! What the API server refuses of a MaintenanceWindow, in which words; what it accepts compiles.

use kube::api::{Api, DynamicObject, PostParams};
use kube::core::ApiResource;
use serde_json::{Value, json};
use upgrade_core::api::MaintenanceWindow;
use upgrade_core::windows::Window;
use upgrade_sandbox::scenario::lab;

fn object(name: &str, spec: &Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "kubectl-upgrade.dev/v1alpha1", "kind": "MaintenanceWindow",
        "metadata": {"name": name}, "spec": spec,
    }))
    .expect("an object")
}

fn cron() -> Value {
    json!({"kind": "Allow", "schedule": "0 1 * * 0", "duration": "2h30m"})
}

fn days() -> Value {
    json!({
        "kind": "Allow", "days": ["Tuesday", "Wednesday"], "start": "02:00", "end": "06:00",
        "timeZone": "Europe/Rome",
    })
}

fn freeze() -> Value {
    json!({
        "kind": "Deny", "reason": "ask ops",
        "activeFrom": "2026-12-20T00:00:00Z", "activeUntil": "2027-01-07T00:00:00Z",
    })
}

/// A good spec, the field of it that becomes bad, and what is said about that.
fn bad() -> Vec<(Value, &'static str, Value, &'static [&'static str])> {
    let one = |from: &str, until: &str| json!([{"from": from, "until": until}]);
    vec![
        (cron(), "kind", json!("Maybe"), &["spec.kind", "\"Allow\", \"Deny\""]),
        (cron(), "kind", Value::Null, &["spec.kind", "Required value"]),
        (cron(), "schedule", json!("0 1 * *"), &["spec.schedule", "needs five fields"]),
        (cron(), "schedule", json!("@every 1h"), &["spec.schedule", "@hourly"]),
        (cron(), "schedule", Value::Null, &["schedule and duration go together"]),
        (cron(), "duration", Value::Null, &["schedule and duration go together"]),
        (cron(), "duration", json!("2"), &["spec.duration", "for instance 45m or 1h30m"]),
        (cron(), "duration", json!("30s"), &["spec.duration", "from 1m to 8784h"]),
        (cron(), "duration", json!("8785h"), &["spec.duration", "from 1m to 8784h"]),
        (cron(), "start", json!("02:00"), &["schedule excludes days, start and end"]),
        (cron(), "timeZone", json!("+02:00"), &["spec.timeZone", "an offset such as +02:00"]),
        (cron(), "timeZone", json!("Local"), &["spec.timeZone", "for instance Europe/Rome"]),
        (cron(), "workloads", json!({}), &["spec.workloads", "give at least one label"]),
        (cron(), "namespaceSelector", json!({}), &["spec.namespaceSelector", "at least one label"]),
        (cron(), "strategies", json!(["bluegreen"]), &["spec.strategies[0]", "\"canary\""]),
        (cron(), "changes", json!(["major"]), &["spec.changes[0]", "\"Major\""]),
        (cron(), "exclusions", one("2026-12-24", "2026-12-23"), &["until must not be before from"]),
        (cron(), "exclusions", one("2026-02-30", "2026-03-01"), &["exclusions[0].from", "date"]),
        (days(), "days", json!(["Tuesday", "Tuesday"]), &["spec.days[1]", "Duplicate value"]),
        (days(), "days", json!([]), &["spec.days", "at least 1 items"]),
        (days(), "days", Value::Null, &["days, start and end go together"]),
        (days(), "end", Value::Null, &["days, start and end go together"]),
        (days(), "start", json!("2:00"), &["spec.start", "for instance 02:00"]),
        (days(), "end", json!("24:00"), &["spec.end", "midnight is 00:00"]),
        (days(), "duration", json!("2h"), &["schedule and duration go together"]),
        (freeze(), "activeUntil", json!("2026-12-19T00:00:00Z"), &["later than activeFrom"]),
        (freeze(), "activeUntil", json!("tomorrow"), &["spec.activeUntil", "date-time"]),
        (
            freeze(),
            "exclusions",
            one("2026-12-24", "2026-12-24"),
            &["give activeFrom and activeUntil"],
        ),
        (json!({"kind": "Deny"}), "kind", json!("Allow"), &["an Allow window needs a time"]),
    ]
}

#[tokio::test]
async fn the_api_server_names_the_field_and_says_what_would_be_right() {
    let shop = lab().await.shop(1).await.expect("a shop");
    let api: Api<DynamicObject> =
        Api::all_with(shop.client.clone(), &ApiResource::erase::<MaintenanceWindow>(&()));
    let name = format!("{}-refused", shop.namespace);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let mut wrong = vec![];
    for (good, field, value, says) in bad() {
        api.create(&dry, &object(&name, &good)).await.expect("without the change it is good");
        let mut spec = good;
        match &value {
            Value::Null => drop(spec.as_object_mut().expect("a spec").remove(field)),
            value => spec[field] = value.clone(),
        }
        match api.create(&dry, &object(&name, &spec)).await {
            Ok(_) => wrong.push(format!("{field} = {value}: accepted")),
            Err(error) => {
                let error = error.to_string();
                let missing = says.iter().filter(|part| !error.contains(**part));
                wrong.extend(
                    missing.map(|part| format!("{field} = {value}: no {part:?} in\n{error}")),
                );
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[tokio::test]
async fn what_the_api_server_accepts_compiles_and_defaults_to_utc() {
    let shop = lab().await.shop(1).await.expect("a shop");
    let api: Api<DynamicObject> =
        Api::all_with(shop.client.clone(), &ApiResource::erase::<MaintenanceWindow>(&()));
    let name = format!("{}-accepted", shop.namespace);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let mut excluded = cron();
    excluded["exclusions"] = json!([{"from": "2026-12-24", "until": "2026-12-24"}]);
    let mut daily = cron();
    daily["schedule"] = json!("@daily");
    for spec in [cron(), days(), freeze(), json!({"kind": "Deny"}), excluded, daily] {
        let made = api.create(&dry, &object(&name, &spec)).await.expect("it is good");
        let made: MaintenanceWindow = made.try_parse().expect("it is of the kind");
        let zone = spec["timeZone"].as_str().unwrap_or("UTC");
        assert_eq!(made.spec.time_zone, zone);
        Window::parse(&made).expect("it compiles");
    }
}
