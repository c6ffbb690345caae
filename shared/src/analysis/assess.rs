//! What measurements make of a metric, and metrics of an analysis: Argo Rollouts' rules.

use super::template::{Metric, RETRY, Verdict};
use crate::api::analysis_run::{AnalysisPhase, AnalysisRunStatus, MeasurementStatus, MetricStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// Longest text of a measured value.
const VALUE: usize = 120;
/// Longest message.
const MESSAGE: usize = 200;

/// Notes one measurement, and when the next one is due.
pub fn note(
    metric: &Metric,
    status: &mut MetricStatus,
    verdict: Verdict,
    value: &str,
    now: Timestamp,
) {
    status.asked += 1;
    status.job = None;
    let (phase, message) = match verdict {
        Verdict::Is(phase, message) => (phase, message),
        Verdict::Wait => {
            status.no_data += 1;
            status.message = format!("waits for data ({} without)", status.no_data);
            status.next = later(now, metric.interval.unwrap_or(RETRY));
            status.phase = AnalysisPhase::Running;
            return;
        }
    };
    match phase {
        AnalysisPhase::Successful => status.successful += 1,
        AnalysisPhase::Failed => status.failed += 1,
        AnalysisPhase::Inconclusive => status.inconclusive += 1,
        _ => status.error += 1,
    }
    if phase == AnalysisPhase::Error {
        status.consecutive_error += 1;
    } else {
        status.count += 1;
        status.consecutive_error = 0;
    }
    if phase == AnalysisPhase::Successful {
        status.consecutive_success += 1;
    } else {
        status.consecutive_success = 0;
    }
    let errs = phase == AnalysisPhase::Error;
    let pause = if errs { RETRY } else { metric.interval.unwrap_or(RETRY) };
    status.next = later(now, pause);
    status.message = cut(&message, MESSAGE);
    status.measurements.push(MeasurementStatus {
        phase,
        value: cut(value, VALUE),
        message: cut(&message, MESSAGE),
        at: Some(MicroTime(now)),
    });
    let over = status.measurements.len().saturating_sub(metric.retention);
    status.measurements.drain(..over);
}

fn later(now: Timestamp, by: jiff::SignedDuration) -> Option<MicroTime> {
    now.saturating_add(by).ok().map(MicroTime)
}

/// A text cut to so many characters.
pub fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// The phase of a metric, and why where it is not a success. `ending`: another metric has said no,
/// or nobody wants to know any more.
pub fn metric(metric: &Metric, status: &MetricStatus, ending: bool) -> (AnalysisPhase, String) {
    if status.phase.is_over() {
        return (status.phase, status.message.clone());
    }
    if let Some(over) = over_limit(metric, status) {
        return over;
    }
    let successes = metric.consecutive_success_limit;
    if successes > 0 && status.consecutive_success >= successes {
        return (AnalysisPhase::Successful, String::new());
    }
    if metric.count.is_some_and(|count| status.count >= count) {
        let missing =
            || format!("{successes} successes in a row were wanted (consecutiveSuccessLimit)");
        return match (metric.failure_limit >= 0, successes > 0) {
            (true, true) => (AnalysisPhase::Inconclusive, missing()),
            (false, true) => (AnalysisPhase::Failed, missing()),
            _ => (AnalysisPhase::Successful, String::new()),
        };
    }
    if ending {
        return (AnalysisPhase::Successful, "ended before it was done".to_owned());
    }
    let begun = status.asked > 0;
    let phase = if begun { AnalysisPhase::Running } else { AnalysisPhase::Pending };
    (phase, status.message.clone())
}

/// The limit that a metric is over; errors count more than the undecided, and these more than
/// failures.
fn over_limit(metric: &Metric, status: &MetricStatus) -> Option<(AnalysisPhase, String)> {
    let last = || {
        let last = status.measurements.last();
        last.map(|m| m.message.as_str())
            .filter(|m| !m.is_empty())
            .map_or_else(String::new, |m| format!(": {m}"))
    };
    if status.consecutive_error > metric.consecutive_error_limit {
        let (n, limit) = (status.consecutive_error, metric.consecutive_error_limit);
        let why = format!("{n} errors in a row, consecutiveErrorLimit is {limit}{}", last());
        return Some((AnalysisPhase::Error, why));
    }
    if status.inconclusive > metric.inconclusive_limit {
        let (n, limit) = (status.inconclusive, metric.inconclusive_limit);
        let why = format!("{n} inconclusive, inconclusiveLimit is {limit}{}", last());
        return Some((AnalysisPhase::Inconclusive, why));
    }
    if metric.failure_limit >= 0 && status.failed > metric.failure_limit {
        let (n, limit) = (status.failed, metric.failure_limit);
        let value = status.measurements.last().map(|m| m.value.clone()).unwrap_or_default();
        let why = format!("{n} failed, failureLimit is {limit}; measured {value}{}", last());
        return Some((AnalysisPhase::Failed, why));
    }
    None
}

/// Brings the phases of all metrics and of the analysis in line with what was measured.
pub fn run(metrics: &[Metric], status: &mut AnalysisRunStatus, ending: bool, now: Timestamp) {
    let mut ending = ending;
    // Twice: the first no ends all that came before it.
    for _ in 0..2 {
        for (of, m) in metrics.iter().zip(&mut status.metrics) {
            let (phase, message) = metric(of, m, ending);
            if phase.is_over() {
                m.next = None;
            }
            (m.phase, m.message) = (phase, cut(&message, MESSAGE));
            let no = !matches!(phase, AnalysisPhase::Successful) && phase.is_over();
            ending |= no && !m.dry_run;
        }
    }
    let deciding = || status.metrics.iter().filter(|m| !m.dry_run);
    let all_over = status.metrics.iter().all(|m| m.phase.is_over());
    let worst = deciding().filter(|m| m.phase.is_over()).max_by_key(|m| m.phase);
    let no = worst.filter(|m| m.phase != AnalysisPhase::Successful);
    let (phase, message) = match no {
        // Nothing that still runs can make it better.
        Some(m) => (m.phase, format!("metric {}: {}", m.name, m.message)),
        None if all_over => (AnalysisPhase::Successful, String::new()),
        None => (AnalysisPhase::Running, progress(metrics, status)),
    };
    status.phase = phase;
    status.message = message;
    if phase.is_over() && status.completed_at.is_none() {
        status.completed_at = Some(MicroTime(now));
    }
}

/// `success-rate 3/10`, for people.
fn progress(metrics: &[Metric], status: &AnalysisRunStatus) -> String {
    let running = metrics.iter().zip(&status.metrics).filter(|(_, m)| !m.phase.is_over());
    let words = running.map(|(of, m)| {
        let count = of.count.map(|c| format!("/{c}")).unwrap_or_default();
        let note = if m.no_data > 0 && m.count == 0 { ", no data yet" } else { "" };
        let bad = match (m.failed, m.consecutive_error) {
            (0, 0) => String::new(),
            (failed, 0) => format!(", {failed} failed"),
            (_, errors) => format!(", {errors} errors in a row"),
        };
        format!("{} {}{count}{bad}{note}", m.name, m.count)
    });
    cut(&words.collect::<Vec<_>>().join(", "), MESSAGE)
}

/// Whether more than this share of all measurements failed; none where there are too few to say.
pub fn over_threshold(runs: &[AnalysisRunStatus], percent: i32) -> Option<String> {
    let deciding = || runs.iter().flat_map(|r| &r.metrics).filter(|m| !m.dry_run);
    let failed: i64 = deciding().map(|m| i64::from(m.failed) + i64::from(m.error)).sum();
    let all: i64 = deciding().map(|m| i64::from(m.count) + i64::from(m.error)).sum();
    let percent = i64::from(percent.clamp(1, 99));
    let enough = all * percent >= 100;
    (enough && failed * 100 > all * percent).then(|| {
        format!("{failed} of {all} measurements failed, errorThreshold.percent is {percent}")
    })
}
