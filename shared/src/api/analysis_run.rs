//! Where the analyses of an Upgrade are: part of its status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One analysis: at a step, in the background, before or after a promotion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnalysisRunStatus {
    /// `STAGE/step-N`, `STAGE/background`, `STAGE/prePromotion` or `STAGE/postPromotion`.
    pub name: String,
    /// Where it is.
    #[serde(default)]
    pub phase: AnalysisPhase,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Somebody went on although it was inconclusive.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overruled: bool,
    /// Hash of the templates as they were at the first measurement: others are not measured by.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub templates_hash: String,
    /// When it began; pauses since then move it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<MicroTime>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<MicroTime>,
    /// One entry for each metric.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<MetricStatus>,
}

/// Where a metric is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricStatus {
    /// Its name.
    pub name: String,
    /// Where it is.
    #[serde(default)]
    pub phase: AnalysisPhase,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// It decides nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Measurements that ended without an error and with data.
    #[serde(default)]
    pub count: i32,
    /// Those that were successful.
    #[serde(default)]
    pub successful: i32,
    /// Those that failed.
    #[serde(default)]
    pub failed: i32,
    /// Those that were neither.
    #[serde(default)]
    pub inconclusive: i32,
    /// Measurements that could not be made.
    #[serde(default)]
    pub error: i32,
    /// Measurements without data that were waited past (`noData: wait`).
    #[serde(default)]
    pub no_data: i32,
    /// Errors since the last measurement that was none.
    #[serde(default)]
    pub consecutive_error: i32,
    /// Successes since the last measurement that was none.
    #[serde(default)]
    pub consecutive_success: i32,
    /// How often it was asked: the number of the measurement under way.
    #[serde(default)]
    pub asked: i32,
    /// When the next measurement is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<MicroTime>,
    /// The Job of the measurement under way, once it was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The last measurements, the newest at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measurements: Vec<MeasurementStatus>,
}

/// One measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeasurementStatus {
    /// What it came to.
    pub phase: AnalysisPhase,
    /// What was measured, cut to 120 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Why, cut to 200 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<MicroTime>,
}

/// Where an analysis, a metric or a measurement is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum AnalysisPhase {
    /// It has ended well.
    Successful,
    /// It is under way.
    Running,
    /// It has not begun.
    #[default]
    Pending,
    /// It can say neither yes nor no.
    Inconclusive,
    /// It could not be made.
    Error,
    /// It says no.
    Failed,
}

impl AnalysisPhase {
    /// Whether nothing more comes of it.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Running | Self::Pending)
    }
}

impl std::fmt::Display for AnalysisPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}
