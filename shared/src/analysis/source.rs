//! What is asked for a metric, and what the answer says.

use super::args::{has_secret, secrets_in};
use super::condition::Value;
use super::jsonpath::Path;
use super::template::duration;
use crate::api::analysis::{
    Datadog, DatadogApi, Header, Method, ObjectMetric, Prometheus, Provider, RangeQuery, SecretKey,
    Web,
};
use crate::engine::questions::{ObjectQuestion, Question, RequestQuestion, SecretUse};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value as Json, json};

/// Longest time of any request.
const LONGEST: i64 = 60;
/// Where Datadog is, unless the Secret says otherwise.
const DATADOG: &str = "https://api.datadoghq.com";
/// Name of the Secret with Datadog's keys, unless told otherwise.
const DATADOG_SECRET: &str = "datadog";

/// Who is asked for a metric, with everything that can be checked beforehand checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Prometheus.
    Prometheus(Box<Prometheus>, Option<Range>),
    /// Datadog.
    Datadog(Box<Datadog>, SignedDuration),
    /// Any web server.
    Web(Box<Web>, Path),
    /// A Job: its metadata and its spec.
    Job(Json, Json),
    /// An object of the namespace.
    Object(ObjectMetric, Path),
}

/// A range of time before now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    start: SignedDuration,
    end: SignedDuration,
    step: SignedDuration,
}

impl Source {
    /// Checks a provider.
    pub fn new(provider: &Provider) -> Result<Self, String> {
        let Provider { prometheus, datadog, web, job, kubernetes } = provider;
        match (prometheus, datadog, web, job, kubernetes) {
            (Some(p), None, None, None, None) => {
                url("prometheus.address", &p.address)?;
                let range = p.range_query.as_ref().map(range).transpose()?;
                Ok(Self::Prometheus(Box::new(p.clone()), range))
            }
            (None, Some(d), None, None, None) => {
                if let Some(address) = &d.address {
                    url("datadog.address", address)?;
                }
                let back = duration("datadog.interval", d.interval.as_deref().unwrap_or("5m"))?;
                Ok(Self::Datadog(Box::new(d.clone()), back))
            }
            (None, None, Some(w), None, None) => {
                url("web.url", &w.url)?;
                let path = Path::parse(w.json_path.as_deref().unwrap_or_default())?;
                Ok(Self::Web(Box::new(w.clone()), path))
            }
            (None, None, None, Some(j), None) => {
                if has_secret(&j.spec) || j.metadata.as_ref().is_some_and(has_secret) {
                    let why = "job: an argument from a Secret would stand in the Job for all to \
                               read; mount the Secret in its pod";
                    return Err(why.to_owned());
                }
                Ok(Self::Job(j.metadata.clone().unwrap_or_default(), j.spec.clone()))
            }
            (None, None, None, None, Some(k)) => Ok(Self::Object(k.clone(), part(k)?)),
            _ => Err("provider: needs exactly one of `prometheus`, `datadog`, `web`, `job` and \
                      `kubernetes`"
                .to_owned()),
        }
    }

    /// What is asked now; none where it is a Job that answers.
    pub fn question(&self, now: Timestamp) -> Option<Question> {
        match self {
            Self::Prometheus(p, range) => Some(Question::Request(prometheus(p, *range, now))),
            Self::Datadog(d, back) => Some(Question::Request(datadog(d, *back, now))),
            Self::Web(w, _) => Some(Question::Request(web(w))),
            Self::Object(k, _) => Some(Question::Object(ObjectQuestion {
                api_version: k.api_version.clone(),
                kind: k.kind.clone(),
                name: k.name.clone(),
            })),
            Self::Job(..) => None,
        }
    }

    /// The value in an answer; an error is one of the measurement.
    pub fn value(&self, answer: &Json) -> Result<Value, String> {
        match self {
            Self::Prometheus(..) => samples(&body(answer, true)?),
            Self::Datadog(d, _) => datadog_value(&body(answer, false)?, d),
            Self::Web(_, path) => {
                let text = body_text(answer, false)?;
                let Ok(json) = serde_json::from_str::<Json>(text) else {
                    return Ok(Value::Text(text.to_owned()));
                };
                Ok(path.find(&json).map_or(Value::Nil, Value::from))
            }
            // What is not there has no condition.
            Self::Object(..) if answer.is_null() => Ok(Value::Nil),
            Self::Object(k, path) => {
                let found = path.find(answer);
                if k.condition.is_some() {
                    return Ok(found.map_or(Value::Nil, |v| Value::Bool(v == "True")));
                }
                Ok(found.map_or(Value::Nil, Value::from))
            }
            Self::Job(..) => Ok(Value::from(answer)),
        }
    }

    /// Whether an answer without conditions is a success only where it is `true`.
    pub fn is_yes_or_no(&self) -> bool {
        matches!(self, Self::Object(k, _) if k.condition.is_some())
    }
}

/// Which part of an object is asked about.
fn part(k: &ObjectMetric) -> Result<Path, String> {
    if k.kind == "Secret" {
        return Err("kubernetes.kind: what is in a Secret is not shown in a status".to_owned());
    }
    match &k.condition {
        Some(condition) if condition.contains(['"', '\'', ')', ']']) => {
            Err(format!("kubernetes.condition: `{condition}` is no condition"))
        }
        Some(condition) => {
            Path::parse(&format!("{{.status.conditions[?(@.type==\"{condition}\")].status}}"))
        }
        None => Path::parse(k.json_path.as_deref().unwrap_or_default()),
    }
}

fn url(field: &str, text: &str) -> Result<(), String> {
    // An argument that is not known yet, or secret, may be the whole of it.
    let open = text.starts_with('\u{e000}') || text.starts_with(super::args::UNKNOWN);
    if open || text.starts_with("http://") || text.starts_with("https://") {
        return Ok(());
    }
    Err(format!("{field}: `{text}` is no URL; write for instance http://prometheus:9090"))
}

fn seconds(limit: Option<i64>, otherwise: i64) -> SignedDuration {
    SignedDuration::from_secs(limit.filter(|s| *s > 0).unwrap_or(otherwise).min(LONGEST))
}

fn headers(headers: &[Header]) -> Vec<(String, String)> {
    headers.iter().map(|h| (h.key.clone(), h.value.clone())).collect()
}

/// A request with the secrets that its texts ask for.
fn request(mut request: RequestQuestion, more: Vec<SecretUse>) -> RequestQuestion {
    let mut texts = vec![request.url.as_str()];
    texts.extend(request.query.iter().chain(&request.headers).map(|(_, v)| v.as_str()));
    texts.extend(request.body.as_deref());
    let mut secrets = more;
    for found in texts.into_iter().flat_map(secrets_in) {
        if !secrets.iter().any(|s| s.placeholder == found.placeholder) {
            secrets.push(found);
        }
    }
    request.secrets = secrets;
    request
}

fn prometheus(p: &Prometheus, range: Option<Range>, now: Timestamp) -> RequestQuestion {
    let address = p.address.trim_end_matches('/');
    let mut query = vec![("query".to_owned(), p.query.clone())];
    let path = if let Some(range) = range {
        let at = |back| {
            let moment = now.saturating_sub(back).unwrap_or(now);
            format!("{}.{:03}", moment.as_second(), moment.subsec_millisecond())
        };
        query.push(("start".to_owned(), at(range.start)));
        query.push(("end".to_owned(), at(range.end)));
        query.push(("step".to_owned(), format!("{}", range.step.as_secs_f64())));
        "query_range"
    } else {
        "query"
    };
    let question = RequestQuestion {
        method: Method::Post,
        url: format!("{address}/api/v1/{path}"),
        query,
        form: true,
        headers: headers(&p.headers),
        body: None,
        insecure: p.insecure,
        timeout: seconds(p.timeout, 30),
        secrets: vec![],
    };
    request(question, vec![])
}

fn web(w: &Web) -> RequestQuestion {
    let mut all = headers(&w.headers);
    if w.json_body.is_some() && !all.iter().any(|(k, _)| k.eq_ignore_ascii_case("content-type")) {
        all.push(("content-type".to_owned(), "application/json".to_owned()));
    }
    let question = RequestQuestion {
        method: w.method.unwrap_or_default(),
        url: w.url.clone(),
        query: vec![],
        form: false,
        headers: all,
        body: w.body.clone().or_else(|| w.json_body.as_ref().map(Json::to_string)),
        insecure: w.insecure,
        timeout: seconds(w.timeout_seconds, 10),
        secrets: vec![],
    };
    request(question, vec![])
}

fn datadog(d: &Datadog, back: SignedDuration, now: Timestamp) -> RequestQuestion {
    let name = d.secret_ref.as_ref().and_then(|s| s.name.as_deref()).unwrap_or(DATADOG_SECRET);
    let key = |key: &str, otherwise: Option<&str>| {
        let secret = SecretKey { name: name.to_owned(), key: key.to_owned() };
        let placeholder = super::args::placeholder(&secret);
        SecretUse { placeholder, secret, otherwise: otherwise.map(str::to_owned) }
    };
    let (api, app, at) =
        (key("api-key", None), key("app-key", None), key("address", Some(DATADOG)));
    let address = d.address.clone().unwrap_or_else(|| at.placeholder.clone());
    let address = address.trim_end_matches('/');
    let (to, from) = (now.as_second(), now.as_second() - back.as_secs());
    let v2 = d.api_version == Some(DatadogApi::V2);
    let mut question = RequestQuestion {
        method: if v2 { Method::Post } else { Method::Get },
        url: format!("{address}/api/{}", if v2 { "v2/query/scalar" } else { "v1/query" }),
        query: vec![],
        form: false,
        headers: vec![
            ("content-type".to_owned(), "application/json".to_owned()),
            ("dd-api-key".to_owned(), api.placeholder.clone()),
            ("dd-application-key".to_owned(), app.placeholder.clone()),
        ],
        body: None,
        insecure: false,
        timeout: seconds(None, 10),
        secrets: vec![],
    };
    if v2 {
        question.body = Some(scalar_request(d, from, to).to_string());
    } else {
        let query = d.query.clone().unwrap_or_default();
        question.query = vec![
            ("query".to_owned(), query),
            ("from".to_owned(), from.to_string()),
            ("to".to_owned(), to.to_string()),
        ];
    }
    let mut secrets = vec![api, app];
    if d.address.is_none() {
        secrets.push(at);
    }
    request(question, secrets)
}

fn scalar_request(d: &Datadog, from: i64, to: i64) -> Json {
    let aggregator = d.aggregator.as_deref().unwrap_or("last");
    let one = d.query.iter().map(|q| ("query", q));
    let all = one.chain(d.queries.iter().map(|(name, q)| (name.as_str(), q)));
    let queries: Vec<Json> = all
        .map(|(name, query)| {
            json!({"aggregator": aggregator, "data_source": "metrics", "name": name, "query": query})
        })
        .collect();
    let formulas: Vec<Json> = d.formula.iter().map(|f| json!({ "formula": f })).collect();
    json!({"data": {"type": "scalar_request", "attributes": {
        "from": from * 1000, "to": to * 1000, "queries": queries, "formulas": formulas}}})
}

fn range(written: &RangeQuery) -> Result<Range, String> {
    let step = duration("rangeQuery.step", &written.step)?;
    if step.is_zero() {
        return Err("rangeQuery.step: it is longer than nothing".to_owned());
    }
    let back = |field: &'static str, text: &str| {
        let wrong = || {
            format!(
                "rangeQuery.{field}: `{text}` is not known; write `now()` or `now() - duration(\"1h\")`"
            )
        };
        let rest = text.trim().strip_prefix("now()").ok_or_else(wrong)?.trim();
        if rest.is_empty() {
            return Ok(SignedDuration::ZERO);
        }
        let inner = rest.strip_prefix('-').map(str::trim).and_then(|r| r.strip_prefix("duration("));
        let inner = inner.and_then(|r| r.strip_suffix(')')).ok_or_else(wrong)?.trim();
        duration("rangeQuery", inner.trim_matches(|c| matches!(c, '"' | '\'')))
    };
    Ok(Range { start: back("start", &written.start)?, end: back("end", &written.end)?, step })
}

/// The text of an answer of the right status. `told`: an error is told in the body, too.
fn body_text(answer: &Json, told: bool) -> Result<&str, String> {
    let status = answer["status"].as_u64().unwrap_or(0);
    let text = answer["body"].as_str().unwrap_or_default();
    if (200..300).contains(&status) {
        return Ok(text);
    }
    let json: Json = serde_json::from_str(text).unwrap_or_default();
    match json["error"].as_str().filter(|_| told) {
        Some(error) => Err(format!("answered with status {status}: {error}")),
        None => Err(format!("answered with status {status}")),
    }
}

fn body(answer: &Json, told: bool) -> Result<Json, String> {
    let text = body_text(answer, told)?;
    serde_json::from_str(text).map_err(|e| format!("the answer is no JSON: {e}"))
}

/// The values of Prometheus' samples.
fn samples(body: &Json) -> Result<Value, String> {
    let data = &body["data"];
    let items = || data["result"].as_array().map(Vec::as_slice).unwrap_or_default();
    match data["resultType"].as_str() {
        Some("scalar") => sample(&data["result"]),
        Some("vector") => {
            items().iter().map(|s| sample(&s["value"])).collect::<Result<_, _>>().map(Value::List)
        }
        Some("matrix") => {
            let rows = items()
                .iter()
                .map(|s| s["values"].as_array().map(Vec::as_slice).unwrap_or_default());
            rows.flatten().map(sample).collect::<Result<_, _>>().map(Value::List)
        }
        Some(other) => Err(format!("the query gives a {other}, and no numbers")),
        None => Err("the answer is none of Prometheus'".to_owned()),
    }
}

/// `[TIME, "VALUE"]`
fn sample(pair: &Json) -> Result<Value, String> {
    let text = pair[1].as_str().ok_or("a sample has no value")?;
    let number = match text {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        _ => text.parse().map_err(|_| format!("the sample `{text}` is no number"))?,
    };
    Ok(Value::Number(number))
}

/// The last point of Datadog's first series or column.
fn datadog_value(body: &Json, d: &Datadog) -> Result<Value, String> {
    if d.api_version == Some(DatadogApi::V2) {
        if let Some(errors) = body["data"]["errors"].as_str().filter(|e| !e.is_empty()) {
            return Err(format!("Datadog says: {errors}"));
        }
        let value = &body["data"]["attributes"]["columns"][0]["values"][0];
        return Ok(Value::from(value));
    }
    if let Some(error) = body["error"].as_str().filter(|e| !e.is_empty()) {
        return Err(format!("Datadog says: {error}"));
    }
    let points = body["series"][0]["pointlist"].as_array();
    Ok(points.and_then(|p| p.last()).map_or(Value::Nil, |p| Value::from(&p[1])))
}
