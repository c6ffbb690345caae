//! What an exception is about.

use super::duration::duration;
use super::text;
use crate::cli::BreakGlassArgs;
use crate::output::Refusal;
use std::time::Duration;
use upgrade_core::api::{BreakGlassImage, BreakGlassKind, BreakGlassObject};
use upgrade_core::image::Image;

/// The longest that an exception may be open.
const LONGEST: Duration = Duration::from_hours(24);

/// A checked exception.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The workload and its new images.
    pub object: BreakGlassObject,
    /// Why.
    pub reason: String,
    /// Number of the incident.
    pub ticket: Option<String>,
    /// How long, as the API takes it.
    pub ttl: String,
}

/// Checks `break-glass`.
pub fn break_glass(args: &BreakGlassArgs) -> Result<Exception, Refusal> {
    if args.reason.trim().is_empty() {
        return Err(Refusal::usage("--reason: say why; it is what the record will show"));
    }
    text(Some(&args.reason), "--reason")?;
    if args.ticket.as_deref().is_some_and(|t| t.trim().is_empty() || t.len() > 128) {
        return Err(Refusal::usage("--ticket takes 1 to 128 bytes"));
    }
    let (kind, name) = workload(&args.workload)?;
    let mut images: Vec<BreakGlassImage> = Vec::new();
    for given in &args.images {
        let Some((container, image)) =
            given.split_once('=').filter(|(c, i)| !c.is_empty() && !i.is_empty())
        else {
            return Err(Refusal::usage(format!("--image: `{given}` is not CONTAINER=IMAGE"))
                .hint("for instance --image web=registry.example/web:v3"));
        };
        Image::parse(image).map_err(|e| Refusal::usage(format!("--image {container}: {e}")))?;
        if images.iter().any(|i| i.container == container) {
            return Err(Refusal::usage(format!("--image: container `{container}` is given twice")));
        }
        images.push(BreakGlassImage { container: container.to_owned(), image: image.to_owned() });
    }
    Ok(Exception {
        object: BreakGlassObject { kind, name, images },
        reason: args.reason.clone(),
        ticket: args.ticket.clone(),
        ttl: ttl(&args.ttl)?,
    })
}

/// The API knows hours, minutes and seconds.
fn ttl(text: &str) -> Result<String, Refusal> {
    let span = duration(text, "--ttl")?.limit.unwrap_or_default();
    let seconds = span.as_secs();
    if seconds == 0 || span > LONGEST {
        return Err(Refusal::usage(format!(
            "--ttl: an exception is open for 1s to 24h, not for {text}"
        )));
    }
    Ok(match (seconds % 3600, seconds % 60) {
        (0, _) => format!("{}h", seconds / 3600),
        (_, 0) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    })
}

fn workload(text: &str) -> Result<(BreakGlassKind, String), Refusal> {
    let form = || {
        Refusal::usage(format!(
            "`{text}` is not deploy/NAME, sts/NAME, ds/NAME or cronjob/NAME: an exception is about \
             what people write, not about what controllers make of it"
        ))
    };
    let (kind, name) = text.split_once('/').ok_or_else(form)?;
    let kind = match kind.to_ascii_lowercase().split('.').next().unwrap_or_default() {
        "deploy" | "deployment" | "deployments" => BreakGlassKind::Deployment,
        "sts" | "statefulset" | "statefulsets" => BreakGlassKind::StatefulSet,
        "ds" | "daemonset" | "daemonsets" => BreakGlassKind::DaemonSet,
        "cj" | "cronjob" | "cronjobs" => BreakGlassKind::CronJob,
        _ => return Err(form()),
    };
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if name.is_empty() || name.len() > 253 || !name.chars().all(inner) {
        return Err(Refusal::usage(format!("`{text}`: `{name}` is not a valid object name")));
    }
    Ok((kind, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn lowered(line: &str) -> Result<Exception, Refusal> {
        let words = format!("kubectl-upgrade break-glass {line}");
        match Cli::try_parse_from(words.split_whitespace()).expect(line).command {
            Command::BreakGlass(args) => break_glass(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_exception_is_checked_before_the_first_request() {
        let good = lowered("sts/db --image db=db:2 --reason r --ttl 90m").expect("fine");
        assert_eq!((good.object.kind, good.ttl.as_str()), (BreakGlassKind::StatefulSet, "90m"));
        assert_eq!(lowered("ds/a --image a=b:2 --reason r").expect("fine").ttl, "1h");
        assert_eq!(lowered("ds/a --image a=b:2 --reason r --ttl 90").expect("fine").ttl, "90s");
        for (line, says) in [
            ("pod/a --image a=b:2 --reason r", "what people write"),
            ("web --image a=b:2 --reason r", "deploy/NAME"),
            ("deploy/web --image a --reason r", "CONTAINER=IMAGE"),
            ("deploy/web --image a=b:1 --image a=b:2 --reason r", "given twice"),
            ("deploy/web --image a=b:1 --reason r --ttl 25h", "1s to 24h"),
            ("deploy/web --image a=b:1 --reason r --ttl 0", "1s to 24h"),
        ] {
            let refusal = lowered(line).expect_err(line);
            assert!(refusal.message.contains(says), "{line}: {}", refusal.message);
        }
        let none = Cli::try_parse_from(["kubectl-upgrade", "break-glass", "deploy/a"]);
        assert!(none.expect_err("no reason").to_string().contains("--reason"));
    }
}
