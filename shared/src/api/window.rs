//! `MaintenanceWindow`: when changes may start, and when nothing may change.

#![expect(
    clippy::duplicated_attributes,
    reason = "what the derive makes of two rules on one struct"
)]

use super::{Selector, StrategyName};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When changes may be made (`Allow`), or when none may be (`Deny`, a freeze).
///
/// An active Deny always wins. Where Allow windows match a change and all of them are shut, it
/// waits; where none matches, it may go. What is absent of the selectors matches everything.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubectl-upgrade.dev",
    version = "v1alpha1",
    kind = "MaintenanceWindow",
    plural = "maintenancewindows",
    shortname = "mwin",
    category = "kubectl-upgrade",
    derive = "PartialEq",
    doc = "When changes may be made, or, as a freeze, when none may be.",
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.kind"),
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule"),
    printcolumn(name = "Duration", type_ = "string", json_path = ".spec.duration"),
    printcolumn(name = "Zone", type_ = "string", json_path = ".spec.timeZone"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.schedule) || (!has(self.days) && !has(self.start) && !has(self.end))")
    .message("schedule excludes days, start and end: give `schedule` with `duration`, or `days` with `start` and `end`"))]
#[x_kube(validation = Rule::new("has(self.schedule) == has(self.duration)")
    .message("schedule and duration go together: the one says when it opens, the other for how long"))]
#[x_kube(validation = Rule::new("has(self.days) == has(self.start) && has(self.start) == has(self.end)")
    .message("days, start and end go together: for instance days [Tuesday], start \"02:00\", end \"06:00\""))]
#[x_kube(validation = Rule::new("self.kind == 'Deny' || has(self.schedule) || has(self.days) || has(self.activeFrom) || has(self.activeUntil)")
    .message("an Allow window needs a time: `schedule` with `duration`, `days` with `start` and `end`, or `activeFrom` or `activeUntil`"))]
#[x_kube(validation = Rule::new("!has(self.activeFrom) || !has(self.activeUntil) || self.activeFrom < self.activeUntil")
    .message("activeUntil must be later than activeFrom"))]
#[x_kube(validation = Rule::new("!has(self.exclusions) || has(self.schedule) || has(self.days)")
    .message("exclusions take days out of a `schedule` or of `days`; without one give activeFrom and activeUntil"))]
pub struct MaintenanceWindowSpec {
    /// Whether it opens for changes or freezes them.
    pub kind: WindowKind,
    /// When it opens, as cron of five fields in `timeZone`: minute, hour, day of month, month, day
    /// of week. Read as by a CronJob; Sunday is 0 or 7, and `@daily` and the like are understood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new(r"self.matches('^\\s*(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|[^@\\s]\\S*(\\s+\\S+){4})\\s*$')")
        .message("schedule needs five fields (minute hour day-of-month month day-of-week), for instance 0 1 * * 0, or one of @hourly, @daily, @weekly, @monthly and @yearly"))]
    pub schedule: Option<String>,
    /// How long it stays open each time that `schedule` opens it, from 1m to 8784h (366 days).
    /// Time that really passes: a change of the clock neither shortens nor lengthens it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(r"self.matches('^([0-9]{1,5}(s|m|h))+$') && duration(self) >= duration('1m') && duration(self) <= duration('8784h')")
        .message("duration is a number with a unit (s, m, h) from 1m to 8784h, for instance 45m or 1h30m"))]
    pub duration: Option<String>,
    /// Days of the week on which it opens, at `start`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 7))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub days: Option<Vec<Weekday>>,
    /// Time on the clock of `timeZone` at which it opens, `00:00` to `23:59`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 5))]
    #[x_kube(validation = Rule::new(r"self.matches('^([01][0-9]|2[0-3]):[0-5][0-9]$')")
        .message("start is a time of day from 00:00 to 23:59, for instance 02:00"))]
    pub start: Option<String>,
    /// Time on the clock at which it shuts; at or before `start`, it is that of the next day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 5))]
    #[x_kube(validation = Rule::new(r"self.matches('^([01][0-9]|2[0-3]):[0-5][0-9]$')")
        .message("end is a time of day from 00:00 to 23:59, for instance 06:00; midnight is 00:00"))]
    pub end: Option<String>,
    /// IANA time zone by whose clock the times are meant.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$') && self != 'Local'")
        .message("timeZone is the name of an IANA time zone, for instance Europe/Rome or UTC; an offset such as +02:00 would not follow the clock"))]
    pub time_zone: String,
    /// Instant from which the window counts at all. Absent: it always did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_from: Option<Time>,
    /// Instant from which it counts no longer, even where it is open. Absent: it always will.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_until: Option<Time>,
    /// Days on which it does not open (or, a freeze, does not freeze).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub exclusions: Vec<Exclusion>,
    /// Namespaces it is about, by their labels. Absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(
        "(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)")
        .message("namespaceSelector is empty: give at least one label, or leave it out to mean every namespace"))]
    pub namespace_selector: Option<Selector>,
    /// Workloads it is about, by their own labels. Absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(
        "(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)")
        .message("workloads is empty: give at least one label, or leave it out to mean every workload"))]
    pub workloads: Option<Selector>,
    /// Names of the UpgradePolicies it is about. Absent: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub policies: Vec<String>,
    /// Strategies it is about. Absent: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub strategies: Vec<StrategyName>,
    /// Sizes of change it is about. Absent: all of them. `Major` includes what can't be told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub changes: Vec<Change>,
    /// Why it is there and whom to ask, shown to whoever it stops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub reason: Option<String>,
}

/// What a window does while it is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WindowKind {
    /// Changes may be made in it, and, where it is the only kind that matches, only in it.
    Allow,
    /// A freeze: no change may be made in it, whatever allows it.
    Deny,
}

/// Days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Weekday {
    /// Monday
    Monday,
    /// Tuesday
    Tuesday,
    /// Wednesday
    Wednesday,
    /// Thursday
    Thursday,
    /// Friday
    Friday,
    /// Saturday
    Saturday,
    /// Sunday
    Sunday,
}

/// Days, by the clock of the window's time zone, on which nothing of it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.from <= self.until")
    .message("exclusions: until must not be before from; for a single day give the same date twice"))]
pub struct Exclusion {
    /// First day, as `2026-12-24`.
    #[schemars(extend("format" = "date"))]
    pub from: String,
    /// Last day, itself included.
    #[schemars(extend("format" = "date"))]
    pub until: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub reason: Option<String>,
}

/// How large a change is, by the versions it goes from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Change {
    /// The first number differs.
    Major,
    /// The second number differs.
    Minor,
    /// Anything after the second number differs.
    Patch,
    /// It can't be told from the versions: counts as `Major`, too.
    Unknown,
}

fn utc() -> String {
    "UTC".to_owned()
}
