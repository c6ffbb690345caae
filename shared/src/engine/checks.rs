//! Health checks: who is asked when, and what the answers mean.
//!
//! A check goes in rounds. In each, every instance is asked once; when the last answer is there the
//! round counts, and only its result is kept in the status. So the status stays small whatever the
//! number of pods, and a controller that comes after a crash asks the round under way again.

use super::Walk;
use super::objects::{ENDPOINT_SLICES, Look, SERVICES, Sight};
use super::questions::{Answer, HttpQuestion, LogsQuestion, Question};
use crate::api::status::{Activity, CheckStatus, HealthStatus};
use crate::api::upgrade::{ExpectedVersion, HealthCheck, HttpGetCheck, Scheme};
use jiff::{SignedDuration, Timestamp};
use jsonpath_rust::JsonPath;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::core::DynamicObject;
use regex::{Regex, RegexBuilder};
use serde_json::Value;

/// Memory that a compiled pattern may take, in bytes.
const PATTERN_SIZE: usize = 1 << 20;
/// Characters of an answer that a message shows.
const SHOWN: usize = 64;

/// Where the checks of a step are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// Every one has passed.
    Passed,
    /// There is more to ask or to wait for.
    Waiting,
    /// One has failed, and why.
    Failed(String),
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    /// For messages and keys: `pod web-abc`.
    pub(crate) name: String,
    /// Name of the pod, where it is one.
    pub(crate) pod: Option<String>,
    /// Its address.
    pub(crate) ip: Option<String>,
    /// What is wrong with it already, so that nothing need be asked.
    pub(crate) trouble: Option<String>,
}

/// The instances of a check, or what is waited for.
type Instances = Result<Vec<Instance>, String>;

/// What one answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Well,
    Bad(String),
    /// It cannot get better.
    Hopeless(String),
}

/// Reads what the API server cannot check; the error names the check and what is wrong with it.
pub fn validate(checks: &[HealthCheck]) -> Result<(), (String, String)> {
    for check in checks {
        let wrong = |why: String| (check.name.clone(), why);
        if let Some(logs) = &check.logs {
            pattern(&logs.pattern).map_err(|e| wrong(format!("logs.pattern: {e}")))?;
        }
        let version = check.http_get.as_ref().and_then(|h| h.expected_version.as_ref());
        if let Some(version) = version {
            path(&version.json_path)
                .map_err(|e| wrong(format!("httpGet.expectedVersion.jsonPath: {e}")))?;
        }
        let kinds = [check.http_get.is_some(), check.tcp_socket.is_some(), check.logs.is_some()];
        if kinds.iter().filter(|k| **k).count() != 1 {
            return Err(wrong("needs exactly one of `httpGet`, `tcpSocket` and `logs`".to_owned()));
        }
    }
    Ok(())
}

/// A pattern for log lines, limited in size; matching takes time linear in the line.
pub fn pattern(text: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(text);
    builder.size_limit(PATTERN_SIZE).dfa_size_limit(PATTERN_SIZE);
    builder.build().map_err(|e| {
        let last = e.to_string().lines().last().unwrap_or_default().trim().to_owned();
        format!("`{text}` is no regular expression that can be used: {last}")
    })
}

/// A JSONPath as RFC 9535 writes it, from that or from kubectl's form.
fn path(text: &str) -> Result<String, String> {
    let inner = text.trim().trim_start_matches('{').trim_end_matches('}').trim();
    let full = match inner.chars().next() {
        Some('$') => inner.to_owned(),
        Some('.' | '[') => format!("${inner}"),
        _ => format!("$.{inner}"),
    };
    match jsonpath_rust::parser::parse_json_path(&full) {
        Ok(_) => Ok(full),
        Err(_) => Err(format!("`{text}` is no JSONPath; write for instance $.version")),
    }
}

impl<'a> Walk<'a> {
    /// The checks of a step whose position is reached; `pods` are those that are asked where a
    /// check names no Service.
    pub(crate) fn check_health(
        &mut self,
        stage: usize,
        step: usize,
        checks: &'a [HealthCheck],
        pods: &Instances,
    ) -> Checked {
        if checks.is_empty() {
            return Checked::Passed;
        }
        let mut health = self.health(stage, step, checks);
        let (mut all, since) = (Checked::Passed, health.since.as_ref().map_or(self.now, |t| t.0));
        for (check, status) in checks.iter().zip(&mut health.checks) {
            if status.passed {
                continue;
            }
            self.status.activity = Some(Activity::HealthChecking);
            match self.check(stage, step, check, status, since, pods) {
                Checked::Passed => {}
                Checked::Waiting => all = Checked::Waiting,
                Checked::Failed(why) => {
                    all = Checked::Failed(why);
                    break;
                }
            }
        }
        if let Some(slot) = self.status.stages.get_mut(stage) {
            slot.health = Some(health);
        }
        all
    }

    /// The status of the step's checks; a fresh one where the step was just reached.
    fn health(&mut self, stage: usize, step: usize, checks: &[HealthCheck]) -> HealthStatus {
        let step = i32::try_from(step).unwrap_or(i32::MAX);
        let known = self.status.stages.get(stage).and_then(|s| s.health.clone());
        if let Some(known) = known.filter(|h| h.step == step && h.checks.len() == checks.len()) {
            return known;
        }
        let name = self.plan.stages.get(stage).map(|s| s.name.clone()).unwrap_or_default();
        self.event(false, "HealthChecksStarted", format!("stage {name}, step {step}"));
        let fresh =
            |c: &HealthCheck| CheckStatus { name: c.name.clone(), ..CheckStatus::default() };
        let checks = checks.iter().map(fresh).collect();
        HealthStatus { step, since: Some(MicroTime(self.now)), checks }
    }

    /// One check: its round under way, or the wait for the next.
    fn check(
        &mut self,
        stage: usize,
        step: usize,
        check: &'a HealthCheck,
        status: &mut CheckStatus,
        since: Timestamp,
        pods: &Instances,
    ) -> Checked {
        let wait = |t: Timestamp, s: i32| t.saturating_add(seconds(s)).unwrap_or(Timestamp::MAX);
        let due = match &status.last_time {
            Some(last) => wait(last.0, check.period_seconds),
            None => wait(since, check.initial_delay_seconds),
        };
        if self.now < due {
            self.alarms.push(due);
            return Checked::Waiting;
        }
        let instances = match &check.service {
            Some(service) => self.behind_service(service),
            None => pods.clone(),
        };
        let instances = match instances {
            Ok(instances) => instances,
            Err(what) => {
                status.message = what;
                return Checked::Waiting;
            }
        };
        let at = format!("{}/{stage}/{step}/{}", self.status.attempt, check.name);
        let Some(verdict) = self.round(&at, stage, check, status.rounds, &instances) else {
            return Checked::Waiting;
        };
        self.count(check, status, verdict)
    }

    /// Counts a round that is over.
    fn count(
        &mut self,
        check: &HealthCheck,
        status: &mut CheckStatus,
        verdict: Verdict,
    ) -> Checked {
        status.rounds = status.rounds.saturating_add(1);
        status.last_time = Some(MicroTime(self.now));
        let (why, hopeless) = match verdict {
            Verdict::Well => {
                (status.passes, status.failures) = (status.passes.saturating_add(1), 0);
                status.message.clear();
                status.passed = status.passes >= check.success_threshold;
                if status.passed {
                    self.event(false, "HealthCheckPassed", format!("check {}", check.name));
                    return Checked::Passed;
                }
                self.alarms.extend(self.now.checked_add(seconds(check.period_seconds)).ok());
                return Checked::Waiting;
            }
            Verdict::Bad(why) => (why, false),
            Verdict::Hopeless(why) => (why, true),
        };
        (status.passes, status.failures) = (0, status.failures.saturating_add(1));
        status.message = why;
        let why = format!("health check {}: {}", check.name, status.message);
        if hopeless || status.failures >= check.failure_threshold {
            self.event(true, "HealthCheckFailed", why.clone());
            return Checked::Failed(why);
        }
        self.alarms.extend(self.now.checked_add(seconds(check.period_seconds)).ok());
        Checked::Waiting
    }

    /// Asks every instance; what the round came to, once the last has answered.
    fn round(
        &mut self,
        at: &str,
        stage: usize,
        check: &HealthCheck,
        count: i32,
        instances: &[Instance],
    ) -> Option<Verdict> {
        if instances.is_empty() {
            return Some(Verdict::Bad("there is nobody to ask".to_owned()));
        }
        let (mut worst, mut missing) = (Verdict::Well, false);
        for instance in instances {
            let verdict = match self.question(stage, check, instance) {
                Err(trouble) => Some(Verdict::Bad(trouble)),
                Ok(question) => {
                    let ip = instance.ip.as_deref().unwrap_or_default();
                    let key = format!("{at}/{}/{ip}/{count}", instance.name);
                    let expected = question.clone();
                    self.ask(&key, question).map(|a| judge(check, &expected, a))
                }
            };
            worst = match (worst, verdict) {
                (Verdict::Hopeless(why), _) => Verdict::Hopeless(why),
                (_, Some(Verdict::Hopeless(why))) => {
                    Verdict::Hopeless(format!("{}: {why}", instance.name))
                }
                (Verdict::Bad(why), _) => Verdict::Bad(why),
                (_, Some(Verdict::Bad(why))) => Verdict::Bad(format!("{}: {why}", instance.name)),
                (Verdict::Well, Some(Verdict::Well)) => Verdict::Well,
                (Verdict::Well, None) => {
                    missing = true;
                    Verdict::Well
                }
            };
        }
        // Nothing that is still to come makes it better.
        let decided = matches!(worst, Verdict::Hopeless(_)) || !missing;
        decided.then_some(worst)
    }

    /// What is asked of an instance; or why it cannot be.
    fn question(
        &self,
        stage: usize,
        check: &HealthCheck,
        instance: &Instance,
    ) -> Result<Question, String> {
        if let Some(trouble) = &instance.trouble {
            return Err(trouble.clone());
        }
        let timeout = seconds(check.timeout_seconds);
        if let Some(logs) = &check.logs {
            let begun = self.status.stages.get(stage).and_then(|s| s.step_start_time.as_ref());
            return Ok(Question::Logs(LogsQuestion {
                pod: instance.pod.clone().ok_or("is no pod, and has no log")?,
                container: logs.container.clone(),
                since: begun.map_or(self.now, |t| t.0),
                pattern: logs.pattern.clone(),
                // A log is read to its end: a probe's second would not do.
                timeout: timeout.max(SignedDuration::from_secs(10)),
            }));
        }
        let ip = instance.ip.as_deref().ok_or("has no address yet")?;
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        if let Some(tcp) = &check.tcp_socket {
            return Ok(Question::Tcp { address: format!("{host}:{}", tcp.port), timeout });
        }
        let http = check.http_get.as_ref().ok_or("asks nothing")?;
        let scheme = if http.scheme == Scheme::Https { "https" } else { "http" };
        let named = check.service.as_ref();
        let named = named.map(|s| ("host".to_owned(), format!("{s}.{}.svc", self.plan.namespace)));
        Ok(Question::Http(HttpQuestion {
            url: format!("{scheme}://{host}:{}{}", http.port, http.path),
            headers: named.into_iter().collect(),
            insecure: http.scheme == Scheme::Https,
            timeout,
        }))
    }

    /// Who answers for a Service: its cluster IP, or each ready endpoint of one without.
    fn behind_service(&mut self, name: &str) -> Instances {
        let waiting = || format!("waits for Service {name} to be seen");
        let found = match self.see(&Look::name(SERVICES, name)).ok_or_else(waiting)? {
            Sight::Seen(found) => found.first().cloned(),
            Sight::Unavailable(why) => return Err(format!("Service {name}: {why}")),
        };
        let one = |ip: Option<String>, trouble: Option<&str>| Instance {
            name: format!("Service {name}"),
            pod: None,
            ip,
            trouble: trouble.map(str::to_owned),
        };
        let Some(service) = found else {
            return Ok(vec![one(None, Some("does not exist"))]);
        };
        let text = |p: &str| service.data.pointer(p).and_then(Value::as_str).unwrap_or_default();
        if text("/spec/type") == "ExternalName" {
            let why = "is of type ExternalName, which leads out of the cluster and is not asked";
            return Ok(vec![one(None, Some(why))]);
        }
        match text("/spec/clusterIP") {
            "" | "None" => self.behind_slices(name),
            ip => Ok(vec![one(Some(ip.to_owned()), None)]),
        }
    }

    fn behind_slices(&mut self, service: &str) -> Instances {
        let look = Look::labels(ENDPOINT_SLICES, format!("kubernetes.io/service-name={service}"));
        let waiting = || format!("waits for the endpoints of Service {service} to be seen");
        let slices = match self.see(&look).ok_or_else(waiting)? {
            Sight::Seen(slices) => slices,
            Sight::Unavailable(why) => {
                return Err(format!("endpoints of Service {service}: {why}"));
            }
        };
        let mut ips: Vec<&str> = slices.iter().flat_map(|s| ready_addresses(s)).collect();
        ips.sort_unstable();
        ips.dedup();
        let name = |ip: &str| format!("Service {service} at {ip}");
        let instance = |ip: &str| Instance {
            name: name(ip),
            pod: None,
            ip: Some(ip.to_owned()),
            trouble: None,
        };
        Ok(ips.into_iter().map(instance).collect())
    }
}

/// Addresses of the endpoints that are ready; one that says nothing of it is.
fn ready_addresses(slice: &DynamicObject) -> impl Iterator<Item = &str> {
    let endpoints = slice.data.get("endpoints").and_then(Value::as_array).into_iter().flatten();
    let ready = endpoints
        .filter(|e| e.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true));
    ready
        .flat_map(|e| e.get("addresses").and_then(Value::as_array).into_iter().flatten())
        .filter_map(Value::as_str)
}

fn seconds(n: i32) -> SignedDuration {
    SignedDuration::from_secs(i64::from(n.max(0)))
}

fn judge(check: &HealthCheck, question: &Question, answer: &Answer) -> Verdict {
    let value = match &answer.result {
        Ok(value) => value,
        Err(why) => return Verdict::Bad(why.clone()),
    };
    match question {
        Question::Http(asked) => {
            let Some(http) = &check.http_get else { return Verdict::Well };
            http_verdict(http, &asked.url, value)
        }
        Question::Logs(asked) => {
            let max = check.logs.as_ref().map_or(0, |l| i64::from(l.max));
            match value.get("lines").and_then(Value::as_i64) {
                None => Verdict::Bad("the log could not be counted".to_owned()),
                Some(lines) if lines > max => Verdict::Hopeless(format!(
                    "{lines} lines of its log match `{}` since {:.0}, at most {max} may; `kubectl \
                     logs {} --since-time={:.0}` shows them",
                    asked.pattern, asked.since, asked.pod, asked.since
                )),
                Some(_) => Verdict::Well,
            }
        }
        Question::Tcp { .. }
        | Question::Notify(_)
        | Question::Request(_)
        | Question::Object(_)
        | Question::WouldCreate { .. }
        | Question::Live { .. } => Verdict::Well,
    }
}

fn http_verdict(http: &HttpGetCheck, url: &str, value: &Value) -> Verdict {
    let status = value.get("status").and_then(Value::as_i64).unwrap_or(0);
    let (well, wanted) = match http.expected_status {
        Some(wanted) => (status == i64::from(wanted), wanted.to_string()),
        None => ((200..400).contains(&status), "200 to 399".to_owned()),
    };
    if !well {
        return Verdict::Bad(format!("GET {url} answered {status} and not {wanted}"));
    }
    let Some(expected) = &http.expected_version else { return Verdict::Well };
    let body = value.get("body").and_then(Value::as_str).unwrap_or_default();
    match version(expected, body) {
        Ok(found) if found == expected.value => Verdict::Well,
        Ok(found) => {
            Verdict::Bad(format!("GET {url} says version {found} and not {}", expected.value))
        }
        Err(why) => Verdict::Bad(format!("GET {url}: {why}")),
    }
}

/// The version that a JSON answer names, cut to what a message may show.
fn version(expected: &ExpectedVersion, body: &str) -> Result<String, String> {
    let body: Value = serde_json::from_str(body).map_err(|_| "the answer is no JSON")?;
    let path = path(&expected.json_path)?;
    let found = body.query(&path).map_err(|_| format!("{path} cannot be read"))?;
    let text = match found.as_slice() {
        [Value::String(text)] => text.clone(),
        [Value::Number(number)] => number.to_string(),
        _ => return Err(format!("{path} is not one string or number in the answer")),
    };
    if text == expected.value {
        return Ok(text);
    }
    Ok(text.chars().filter(|c| !c.is_control()).take(SHOWN).collect())
}

#[cfg(test)]
#[path = "tests/checks.rs"]
mod tests;
