//! Templates and arguments to metrics that can be measured.

use super::args::{self, Arg, Args};
use super::condition::{Condition, Value};
use super::source::Source;
use crate::api::AnalysisPhase;
use crate::api::analysis::{
    AnalysisArg, AnalysisRef, AnalysisTemplateSpec, DryRun, MeasurementRetention,
    Metric as Written, NoData, TemplateArg,
};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// Measurements that are kept where nothing is said.
pub const RETENTION: usize = 10;
/// The most measurements that are kept: the status of an Upgrade is one object.
pub const MOST_RETENTION: i32 = 50;
/// Time to the next measurement after an error, and where there is no interval.
pub const RETRY: SignedDuration = SignedDuration::from_secs(10);
/// The shortest interval.
const SHORTEST: SignedDuration = SignedDuration::from_secs(1);
/// The most metrics of one analysis.
const MOST_METRICS: usize = 32;

/// A metric that can be measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its name.
    pub name: String,
    /// Time between measurements.
    pub interval: Option<SignedDuration>,
    /// Time before the first.
    pub initial_delay: SignedDuration,
    /// How many end it; none where there is no end.
    pub count: Option<i32>,
    /// Failed ones that are borne; negative: all.
    pub failure_limit: i32,
    /// Inconclusive ones that are borne.
    pub inconclusive_limit: i32,
    /// Errors in a row that are borne.
    pub consecutive_error_limit: i32,
    /// Successes in a row that end it; 0: none do.
    pub consecutive_success_limit: i32,
    /// When a measurement is successful.
    pub success: Option<Condition>,
    /// When it has failed.
    pub failure: Option<Condition>,
    /// What one without data is.
    pub no_data: Option<NoData>,
    /// It decides nothing.
    pub dry_run: bool,
    /// How many measurements are kept.
    pub retention: usize,
    /// Who is asked.
    pub source: Source,
}

/// What a measured value means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts as this.
    Is(AnalysisPhase, String),
    /// There is no data, and it is waited for.
    Wait,
}

impl Metric {
    /// Judges a value.
    pub fn judge(&self, value: &Value) -> Verdict {
        let is = |phase, why: &str| Verdict::Is(phase, why.to_owned());
        if value.is_no_data() {
            let why = "there is no data";
            let own = [&self.success, &self.failure];
            let asked = own.into_iter().flatten().any(Condition::asks_for_data);
            match self.no_data {
                Some(NoData::Pass) => return is(AnalysisPhase::Successful, why),
                Some(NoData::Fail) => return is(AnalysisPhase::Failed, why),
                Some(NoData::Inconclusive) => return is(AnalysisPhase::Inconclusive, why),
                Some(NoData::Wait) => return Verdict::Wait,
                None if !asked => {
                    let why = "there is no data, and `noData` does not say what that means";
                    return is(AnalysisPhase::Inconclusive, why);
                }
                None => {}
            }
        }
        let ask = |c: &Option<Condition>| c.as_ref().map(|c| c.holds(value)).transpose();
        let (success, failure) = match (ask(&self.success), ask(&self.failure)) {
            (Err(why), _) | (_, Err(why)) => return Verdict::Is(AnalysisPhase::Error, why),
            (Ok(success), Ok(failure)) => (success, failure),
        };
        if success.is_none() && failure.is_none() && self.source.is_yes_or_no() {
            return match value {
                Value::Bool(true) => is(AnalysisPhase::Successful, ""),
                _ => is(AnalysisPhase::Failed, "it is not True"),
            };
        }
        match (success, failure) {
            (_, Some(true)) => is(AnalysisPhase::Failed, "failureCondition holds"),
            (Some(false), None) => is(AnalysisPhase::Failed, "successCondition does not hold"),
            (Some(false), Some(false)) => {
                is(AnalysisPhase::Inconclusive, "neither condition holds")
            }
            (None | Some(true), None | Some(false)) => is(AnalysisPhase::Successful, ""),
        }
    }
}

/// All metrics of an analysis, or why it cannot be made; the error names template and metric.
pub fn compile(
    templates: &[(&str, &AnalysisTemplateSpec)],
    asked: &AnalysisRef,
    args: &Args,
) -> Result<Vec<Metric>, String> {
    let mut metrics: Vec<Metric> = Vec::new();
    for (template, spec) in templates {
        let at = |why: String| format!("AnalysisTemplate {template}: {why}");
        for written in &spec.metrics {
            let metric = metric(written, args)
                .map_err(|why| at(format!("metric {}: {why}", written.name)))?;
            if metrics.iter().any(|m| m.name == metric.name) {
                return Err(at(format!("there are two metrics {}", metric.name)));
            }
            metrics.push(metric);
        }
    }
    if metrics.len() > MOST_METRICS {
        return Err(format!("{} metrics; {MOST_METRICS} are the most", metrics.len()));
    }
    let dry = templates.iter().flat_map(|(_, t)| &t.dry_run).chain(&asked.dry_run);
    for DryRun { metric_name } in dry {
        each_matching(&mut metrics, metric_name, "dryRun", |m| m.dry_run = true)?;
    }
    let kept = templates.iter().flat_map(|(_, t)| &t.measurement_retention);
    for MeasurementRetention { metric_name, limit } in kept.chain(&asked.measurement_retention) {
        let kept = usize::try_from((*limit).clamp(1, MOST_RETENTION)).unwrap_or(RETENTION);
        each_matching(&mut metrics, metric_name, "measurementRetention", |m| m.retention = kept)?;
    }
    Ok(metrics)
}

/// Looks at a template by itself, before anybody gives it arguments.
pub fn check(spec: &AnalysisTemplateSpec) -> Result<(), String> {
    let unknown = |a: &TemplateArg| {
        let known = a.value.clone().map_or(Arg::Unknown, Arg::Text);
        let secret = a.value_from.as_ref().and_then(|v| v.secret_key_ref.clone());
        (a.name.clone(), secret.map_or(known, Arg::Secret))
    };
    let args: Args = spec.args.iter().map(unknown).collect();
    for written in &spec.metrics {
        let at = |why| format!("spec.metrics: metric {}: {why}", written.name);
        // What an argument decides is looked at when the argument is known.
        metric(&without_unknown(written, &args), &args).map_err(at)?;
    }
    Ok(())
}

/// The metric without durations and numbers that hang on arguments nobody gave yet.
fn without_unknown(written: &Written, args: &Args) -> Written {
    let mut known = written.clone();
    let hangs =
        |text: &str| text.contains("{{") && args.values().any(|a| !matches!(a, Arg::Text(_)));
    let drop = |field: &mut Option<String>| *field = field.take().filter(|t| !hangs(t));
    drop(&mut known.interval);
    drop(&mut known.initial_delay);
    if known.interval.is_none() && written.interval.is_some() {
        known.interval = Some("1m".to_owned());
    }
    if let Some(range) = known.provider.prometheus.as_mut().and_then(|p| p.range_query.as_mut()) {
        for (field, then) in
            [(&mut range.start, "now()"), (&mut range.end, "now()"), (&mut range.step, "1m")]
        {
            if hangs(field) {
                then.clone_into(field);
            }
        }
    }
    if let Some(datadog) = known.provider.datadog.as_mut() {
        drop(&mut datadog.interval);
    }
    known
}

fn metric(written: &Written, args: &Args) -> Result<Metric, String> {
    let json = serde_json::to_value(written).map_err(|e| e.to_string())?;
    let filled: Written = read(&args::fill(&json, args)?)?;
    let condition = |field: &str, text: &Option<String>| {
        let Some(text) = text.as_deref().filter(|t| !t.trim().is_empty()) else {
            return Ok(None);
        };
        if text.contains('\u{e000}') {
            return Err(format!("{field}: an argument from a Secret may stand in requests only"));
        }
        Condition::parse(text).map(Some).map_err(|e| format!("{field}: {e}"))
    };
    let interval = filled.interval.as_deref().map(|t| duration("interval", t)).transpose()?;
    if interval.is_some_and(|i| i < SHORTEST) {
        return Err("interval: the shortest is 1s".to_owned());
    }
    let count = whole("count", filled.count.as_ref())?.filter(|c| *c != 0);
    if count.is_some_and(|c| c < 0) {
        return Err("count: it is at least 1".to_owned());
    }
    if count.is_some_and(|c| c > 1) && interval.is_none() {
        return Err("interval: a count over 1 needs one".to_owned());
    }
    let limit = |field, value: &Option<IntOrString>, otherwise| {
        whole(field, value.as_ref()).map(|v| v.unwrap_or(otherwise))
    };
    let metric = Metric {
        interval,
        initial_delay: filled
            .initial_delay
            .as_deref()
            .map(|t| duration("initialDelay", t))
            .transpose()?
            .unwrap_or(SignedDuration::ZERO),
        count: count.or(interval.is_none().then_some(1)),
        failure_limit: limit("failureLimit", &filled.failure_limit, 0)?,
        inconclusive_limit: limit("inconclusiveLimit", &filled.inconclusive_limit, 0)?,
        consecutive_error_limit: limit(
            "consecutiveErrorLimit",
            &filled.consecutive_error_limit,
            4,
        )?,
        consecutive_success_limit: limit(
            "consecutiveSuccessLimit",
            &filled.consecutive_success_limit,
            0,
        )?,
        success: condition("successCondition", &filled.success_condition)?,
        failure: condition("failureCondition", &filled.failure_condition)?,
        no_data: filled.no_data,
        dry_run: false,
        retention: RETENTION,
        source: Source::new(&filled.provider)?,
        name: filled.name,
    };
    limits(&metric)?;
    Ok(metric)
}

fn limits(metric: &Metric) -> Result<(), String> {
    let counted = metric.count.filter(|_| metric.interval.is_some());
    for (field, value) in
        [("failureLimit", metric.failure_limit), ("inconclusiveLimit", metric.inconclusive_limit)]
    {
        if counted.is_some_and(|c| value > c) {
            return Err(format!("{field}: {value} can never be passed with this count"));
        }
    }
    if metric.failure_limit < 0 && metric.consecutive_success_limit <= 0 {
        return Err("failureLimit: -1 needs a consecutiveSuccessLimit".to_owned());
    }
    let negative = [
        ("inconclusiveLimit", metric.inconclusive_limit),
        ("consecutiveErrorLimit", metric.consecutive_error_limit),
        ("consecutiveSuccessLimit", metric.consecutive_success_limit),
    ];
    match negative.into_iter().find(|(_, v)| *v < 0) {
        Some((field, value)) => Err(format!("{field}: {value}; it is at least 0")),
        None => Ok(()),
    }
}

fn read<T: DeserializeOwned>(value: &serde_json::Value) -> Result<T, String> {
    T::deserialize(value).map_err(|e| e.to_string())
}

/// A whole number, as a number or as text.
fn whole(field: &str, value: Option<&IntOrString>) -> Result<Option<i32>, String> {
    match value {
        None => Ok(None),
        Some(IntOrString::Int(n)) => Ok(Some(*n)),
        Some(IntOrString::String(text)) => match text.trim().parse() {
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(format!("{field}: `{text}` is no whole number")),
        },
    }
}

/// A duration as Go writes it.
pub fn duration(field: &'static str, text: &str) -> Result<SignedDuration, String> {
    crate::engine::plan::duration(field, text).map_err(|e| e.to_string())
}

/// Does something to the metrics that a name or pattern means; it must mean one.
fn each_matching(
    metrics: &mut [Metric],
    pattern: &str,
    field: &str,
    change: impl Fn(&mut Metric),
) -> Result<(), String> {
    let mut any = false;
    for metric in metrics.iter_mut().filter(|m| matches(pattern, &m.name)) {
        change(metric);
        any = true;
    }
    if any { Ok(()) } else { Err(format!("{field}: `{pattern}` is no metric's name")) }
}

/// A name, or a pattern whose `.*` stands for anything. Like a regular expression it may mean a part
/// of a name, unless it says `^` or `$`.
fn matches(pattern: &str, name: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    let (pattern, from_start) = pattern.strip_prefix('^').map_or((pattern, false), |p| (p, true));
    let (pattern, to_end) = pattern.strip_suffix('$').map_or((pattern, false), |p| (p, true));
    let mut rest = name;
    let parts: Vec<&str> = pattern.split(".*").collect();
    for (i, part) in parts.iter().enumerate() {
        let last = i + 1 == parts.len();
        let found = if i == 0 && from_start {
            rest.starts_with(part).then_some(0)
        } else if last && to_end {
            rest.ends_with(part).then(|| rest.len() - part.len())
        } else {
            rest.find(part)
        };
        let Some(at) = found else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    !to_end || rest.is_empty() || parts.last().is_some_and(|p| p.is_empty())
}

/// What an argument's value comes from.
pub enum Origin<'a> {
    /// The Upgrade.
    Given(&'a AnalysisArg),
    /// The template.
    Written(&'a TemplateArg),
}

/// The arguments of some templates, each as the Upgrade gives it, else as a template has it. An
/// error names the one that nobody gives.
pub fn arguments<'a>(
    templates: &[(&'a str, &'a AnalysisTemplateSpec)],
    asked: &'a AnalysisRef,
) -> Result<Vec<(&'a str, Origin<'a>)>, String> {
    let mut all: Vec<(&'a str, Origin<'a>)> = Vec::new();
    for (template, spec) in templates {
        for arg in &spec.args {
            let given = asked.args.iter().find(|a| a.name == arg.name);
            let set = arg.value.is_some() || arg.value_from.is_some();
            if let Some(given) = given {
                if all.iter().all(|(n, _)| *n != arg.name) {
                    all.push((arg.name.as_str(), Origin::Given(given)));
                }
                continue;
            }
            match all.iter().position(|(n, _)| *n == arg.name).and_then(|i| all.get(i)) {
                None if set => all.push((arg.name.as_str(), Origin::Written(arg))),
                Some((_, Origin::Written(other))) if set && *other != arg => {
                    return Err(format!("argument {} has different values in templates", arg.name));
                }
                Some(_) => {}
                None => {
                    // Another of the templates may have its value.
                    let elsewhere = templates.iter().flat_map(|(_, t)| &t.args).any(|a| {
                        a.name == arg.name && (a.value.is_some() || a.value_from.is_some())
                    });
                    if !elsewhere {
                        return Err(format!(
                            "AnalysisTemplate {template}: nobody gives argument {}; give it in \
                             `analysis.args`",
                            arg.name
                        ));
                    }
                }
            }
        }
    }
    let known = |name: &str| all.iter().any(|(n, _)| *n == name);
    match asked.args.iter().find(|a| !known(&a.name)) {
        Some(arg) => Err(format!("analysis.args: no template has an argument {}", arg.name)),
        None => Ok(all),
    }
}

/// A hash of templates as they are.
pub fn hash(templates: &[(&str, &AnalysisTemplateSpec)]) -> String {
    let mut digest = Sha256::new();
    for (name, spec) in templates {
        digest.update(name.as_bytes());
        digest.update(serde_json::to_vec(spec).unwrap_or_default());
    }
    crate::plan::hash::hex(digest.finalize().iter().take(8))
}
