//! The short form of canary steps: `replicas:1,pause,10,pause:5m,50,analysis:success-rate,100`.

use super::duration;
use crate::output::Refusal;
use upgrade_core::api::analysis::{AnalysisRef, TemplateRef};
use upgrade_core::api::upgrade::{CanaryStep, Pause};

/// Most steps that the API takes.
const MAX: usize = 50;

/// Reads the short form; `down` says that weights may go down before 100.
pub fn steps(text: &str, down: bool) -> Result<Vec<CanaryStep>, Refusal> {
    let bad = |message: String| {
        Refusal::usage(format!("--steps: {message}"))
            .hint("weights in percent or pods, and pauses, for instance --steps replicas:1,pause,50,pause:5m,100")
    };
    let mut steps = Vec::new();
    let (mut last, mut pods) = (0, 0);
    for word in text.split(',').map(str::trim) {
        let step = match word.split_once(':') {
            _ if word.is_empty() => return Err(bad(format!("an empty step in `{text}`"))),
            None if word == "pause" => pause(None),
            Some(("pause", "approval")) => CanaryStep {
                pause: Some(Pause { duration: None, until_approval: true }),
                ..CanaryStep::default()
            },
            Some(("pause", length)) => {
                let span = duration(length, "--steps")?;
                if span.limit.is_none() {
                    return Err(bad(format!("`{word}` rests for no time at all")));
                }
                // The API wants a unit; a bare number is seconds everywhere on this command line.
                let unit = length.ends_with(|c: char| c.is_ascii_digit());
                pause(Some(if unit { format!("{length}s") } else { length.to_owned() }))
            }
            Some(("replicas", number)) => replicas(number, &mut pods, down).map_err(bad)?,
            Some(("analysis", template)) => analysis(template).map_err(bad)?,
            _ => weight(word, &mut last, down).map_err(bad)?,
        };
        steps.push(step);
    }
    if steps.len() > MAX {
        return Err(bad(format!("{} steps are more than the {MAX} that fit", steps.len())));
    }
    if steps.first().is_some_and(|s| s.pause.is_some()) {
        return Err(bad(
            "the first step is a pause: nothing has moved that could be looked at".into()
        ));
    }
    Ok(steps)
}

fn pause(duration: Option<String>) -> CanaryStep {
    CanaryStep { pause: Some(Pause { duration, until_approval: false }), ..CanaryStep::default() }
}

/// An AnalysisTemplate by its name.
pub(super) fn template(template: &str) -> Result<TemplateRef, String> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if template.is_empty() || !template.chars().all(fine) {
        return Err(format!("`{template}` is not the name of an AnalysisTemplate"));
    }
    Ok(TemplateRef { template_name: template.to_owned(), cluster_scope: None })
}

/// An analysis by one template whose arguments all have values.
fn analysis(name: &str) -> Result<CanaryStep, String> {
    let template = template(name)?;
    let asked = AnalysisRef { templates: vec![template], ..AnalysisRef::default() };
    Ok(CanaryStep { analysis: Some(asked), ..CanaryStep::default() })
}

fn replicas(number: &str, last: &mut i32, down: bool) -> Result<CanaryStep, String> {
    let pods = number.trim().parse().ok().filter(|n| *n >= 1);
    let pods: i32 =
        pods.ok_or_else(|| format!("`replicas:{number}` is not a number of pods, at least 1"))?;
    if pods < *last && !down {
        return Err(format!(
            "replicas:{pods} comes after replicas:{last}: a canary in place can only grow (`abort` \
             takes it back)"
        ));
    }
    *last = pods;
    Ok(CanaryStep { set_replicas: Some(pods), ..CanaryStep::default() })
}

fn weight(word: &str, last: &mut i32, down: bool) -> Result<CanaryStep, String> {
    let number = word.strip_suffix('%').unwrap_or(word).trim();
    let weight: i32 = number.parse().map_err(|_| {
        format!(
            "`{word}` is neither a weight nor `replicas:N`, `pause`, `pause:DURATION`, \
             `pause:approval` or `analysis:TEMPLATE`"
        )
    })?;
    if !(1..=100).contains(&weight) {
        return Err(format!("weight {weight} is not a percentage from 1 to 100"));
    }
    if weight < *last && !(down && *last < 100) {
        return Err(format!(
            "weight {weight} comes after {last}: a canary in place can only grow (`abort` takes it \
             back); one with --separate may shrink until 100"
        ));
    }
    *last = weight;
    Ok(CanaryStep { set_weight: Some(weight), ..CanaryStep::default() })
}
