//! Routes that an Upgrade makes of its own beside the user's, for the time of a canary: some requests
//! go to it by their headers, or are sent to it a second time.
//!
//! Field names are those of Argo Rollouts (`setHeaderRoute`, `setMirrorRoute`, `managedRoutes`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Name of a route of ours, as a list of Argo Rollouts has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ManagedRoute {
    /// The name that steps use.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// Requests with these headers all go to the canary, whatever its weight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SetHeaderRoute {
    /// Name of the route, a lower-case DNS label. The HTTPRoute is `WORKLOAD-NAME`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// What a request must have, all of it. Absent: the route of this name is taken away.
    #[serde(default, rename = "match", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub matches: Vec<HeaderMatch>,
}

/// A header and its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// Name of the header; case does not count.
    #[schemars(length(min = 1, max = 256))]
    pub header_name: String,
    /// Its value.
    pub header_value: StringMatch,
}

/// Requests are answered by the stable pods, and a copy of each goes to the canary, whose answers
/// nobody sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SetMirrorRoute {
    /// Name of the route, a lower-case DNS label. The HTTPRoute is `WORKLOAD-NAME`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Share of these requests that is copied, in percent, 1 to 100; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub percentage: Option<i32>,
    /// Which requests: those that one of these is about. Absent: the route of this name is taken
    /// away.
    #[serde(default, rename = "match", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub matches: Vec<MirrorMatch>,
}

/// Which requests: all that is named must hold. Headers or a method are needed, for the router has to
/// prefer this route to the user's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirrorMatch {
    /// The method, `exact` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<StringMatch>,
    /// Paths of the user's rules that it is about, `exact` or `prefix`; all where absent. No path is
    /// added that the user's route does not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<StringMatch>,
    /// Headers, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8))]
    pub headers: BTreeMap<String, StringMatch>,
}

/// A value; exactly one of its fields is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct StringMatch {
    /// This very value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub exact: Option<String>,
    /// Values that start with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub prefix: Option<String>,
    /// Values that this expression is about, in the router's own dialect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub regex: Option<String>,
}
