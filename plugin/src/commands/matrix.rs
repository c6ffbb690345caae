//! `matrix`: which versions go together, and whether some do.

use crate::cli::{Format, MatrixArgs, MatrixWhat};
use crate::client::Session;
use crate::errors::explain;
use crate::gather::Read;
use crate::gather::facts::{self, Setting};
use crate::objects::{documents, list};
use crate::output::checks::{Check, Outcome, Style, render};
use crate::output::hint::nearest;
use crate::output::table::Table;
use crate::output::{Exit, Printer, Refusal};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use upgrade_core::api::{CompatibilityMatrix, Verdict};
use upgrade_core::matrix::{Facts, Finding, Matrix, evaluate, passes, worst};

/// Verdicts that pass where no policy says otherwise.
const GOOD: [Verdict; 2] = [Verdict::Supported, Verdict::Tested];

/// Versions by component, as given; empty where the component is not there.
pub type Given = BTreeMap<String, String>;

/// Checks the flags.
pub fn lower(args: &MatrixArgs) -> Result<Given, Refusal> {
    if args.what == MatrixWhat::List {
        if args.name.is_some() || args.live || !args.set.is_empty() {
            return Err(Refusal::usage("NAME, --set and --live belong to `matrix test`"));
        }
        return Ok(Given::new());
    }
    if args.name.is_none() {
        return Err(Refusal::usage("which matrix? give its name")
            .hint("kubectl upgrade matrix list   (shows the names)"));
    }
    let mut given = Given::new();
    for text in &args.set {
        let Some((name, version)) = text.split_once('=').filter(|(n, _)| !n.is_empty()) else {
            return Err(Refusal::usage(format!("--set: `{text}` is not COMPONENT=VERSION"))
                .hint("for instance --set kubernetes=1.34.2"));
        };
        if given.insert(name.to_owned(), version.trim().to_owned()).is_some() {
            return Err(Refusal::usage(format!("--set: component `{name}` is given twice")));
        }
    }
    if given.is_empty() && !args.live {
        return Err(Refusal::usage("which versions? give --set COMPONENT=VERSION, --live or both"));
    }
    Ok(given)
}

/// Lists, or judges.
pub async fn run(
    session: &Session,
    printer: &mut Printer,
    args: &MatrixArgs,
    given: &Given,
) -> anyhow::Result<Exit> {
    let api: Api<CompatibilityMatrix> = Api::all(session.client.clone());
    let Some(name) = &args.name else {
        let mut objects = list(session, &api, &ListParams::default()).await?;
        objects.sort_by_key(ResourceExt::name_any);
        show(printer, &objects, args.output.output)?;
        return Ok(Exit::Done);
    };
    let found = api.get_opt(name).await.map_err(|e| explain(session, &e))?;
    let Some(object) = found else {
        return Err(missing(session, &api, name).await.into());
    };
    let matrix =
        Matrix::parse(&object).map_err(|e| Refusal::new("InvalidMatrix", e.to_string()))?;
    check_names(&matrix, given)?;
    let (live, settings) =
        if args.live { facts::read(session, &matrix).await } else { Default::default() };
    let after = overlaid(&matrix, &live, &settings, given, args.live);
    // Without what runs there is no way to judge, only a state.
    let before = if args.live { live } else { after.clone() };
    let findings = evaluate(&matrix, &before, &after);
    verdict(printer, &matrix, &findings, args.output.output)
}

async fn missing(session: &Session, api: &Api<CompatibilityMatrix>, name: &str) -> Refusal {
    let refusal = Refusal::new("NotFound", format!("there is no CompatibilityMatrix `{name}`"));
    let all = match crate::gather::list_all(session, api, "list matrices").await {
        Read::There(all) => all,
        _ => Vec::new(),
    };
    let names: Vec<String> = all.iter().map(ResourceExt::name_any).collect();
    match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => refusal.hint(format!("did you mean `{near}`?")),
        None => refusal.hint("kubectl upgrade matrix list"),
    }
}

fn check_names(matrix: &Matrix, given: &Given) -> Result<(), Refusal> {
    let names: Vec<&str> = matrix.components().map(|(name, _)| name).collect();
    let Some(wrong) = given.keys().find(|k| !names.contains(&k.as_str())) else {
        return Ok(());
    };
    let text = format!("--set: matrix {} has no component `{wrong}`", matrix.name());
    let refusal = Refusal::usage(text);
    Err(match nearest(wrong, names.iter().copied()) {
        Some(near) => refusal.hint(format!("did you mean {near}?")),
        None => refusal.hint(format!("its components are {}", names.join(", "))),
    })
}

/// What runs, with what was given in its place.
fn overlaid(
    matrix: &Matrix,
    live: &Facts,
    settings: &[Setting],
    given: &Given,
    read: bool,
) -> Facts {
    let mut facts = Facts::default();
    for (name, source) in matrix.components() {
        match given.get(name) {
            Some(version) if version.is_empty() => {
                facts.absent(name);
            }
            Some(version) => {
                // A workload keeps its name, so that a change of it is seen as one.
                let object = live.readings(name).first().map_or("--set", |r| r.object.as_str());
                facts.read(name, object, version);
            }
            None if read => facts::copy(live, name, source, &mut facts),
            None => {
                facts.unread(name, "it was not given: add --set or --live");
            }
        }
    }
    for (key, value) in settings {
        facts.setting(key.clone(), value.as_deref());
    }
    facts
}

fn verdict(
    printer: &mut Printer,
    matrix: &Matrix,
    findings: &[Finding],
    format: Option<Format>,
) -> anyhow::Result<Exit> {
    let worst = worst(findings).unwrap_or(Verdict::Unknown);
    let good = passes(worst, &GOOD);
    let exit = if good { Exit::Done } else { Exit::Blocked };
    if let Some(format @ (Format::Json | Format::Yaml)) = format {
        let body = json!({
            "kind": "MatrixVerdict",
            "reason": worst.as_str(),
            "exitCode": exit as u8,
            "matrix": matrix.name(),
            "verdict": worst,
            "findings": findings.iter().map(document).collect::<Vec<_>>(),
        });
        printer.document(format, &body)?;
    } else {
        let checks: Vec<Check> = findings.iter().map(row).collect();
        let style = Style { marks: printer.marks, width: Printer::width(), most: None };
        printer.data(&render(&checks, style))?;
        let word =
            if good { "these versions go together" } else { "they do not pass by themselves" };
        printer.data(&format!("{}: {worst}; {word}", matrix.name()))?;
    }
    Ok(exit)
}

fn document(finding: &Finding) -> Value {
    json!({
        "verdict": finding.verdict,
        "rule": finding.rule.to_string(),
        "message": finding.why,
        "parts": finding.parts,
        "note": finding.note,
        "source": finding.source,
        "retrieved": finding.retrieved,
        "endOfLife": finding.end_of_life,
    })
}

fn row(finding: &Finding) -> Check {
    let outcome = match finding.verdict {
        Verdict::Supported | Verdict::Tested => Outcome::Passed,
        Verdict::Untested | Verdict::NotRecommended => Outcome::Warning,
        Verdict::Unknown => Outcome::NotChecked,
        Verdict::Unsupported => Outcome::Error,
    };
    let parts: Vec<String> = finding.parts.iter().map(ToString::to_string).collect();
    let parts = if parts.is_empty() { None } else { Some(format!("of {}", parts.join(", "))) };
    let source = finding.source.as_ref().map(|source| match &finding.retrieved {
        Some(date) => format!("source: {source} (read on {date})"),
        None => format!("source: {source}"),
    });
    let end = finding.end_of_life.as_ref().map(|e| format!("end of life: {e}"));
    let rule = Some(format!("by {}", finding.rule));
    let check = Check {
        group: "Verdicts",
        ..Check::new(finding.verdict.as_str(), outcome, finding.why.clone())
    };
    check.seen([parts, rule, finding.note.clone(), source, end].into_iter().flatten())
}

fn show(
    printer: &mut Printer,
    objects: &[CompatibilityMatrix],
    format: Option<Format>,
) -> anyhow::Result<()> {
    match format {
        Some(format @ (Format::Json | Format::Yaml)) => {
            printer.document(format, &documents(objects)?)?;
        }
        Some(Format::Name) => {
            for one in objects {
                printer
                    .data(&format!("compatibilitymatrix.kubectl-upgrade.dev/{}", one.name_any()))?;
            }
        }
        _ if objects.is_empty() => printer.note("no compatibility matrices")?,
        _ => {
            let mut table = Table::new(&["NAME", "SUBJECT", "COMPONENTS", "ROWS", "STATE"]);
            for one in objects {
                let spec = &one.spec;
                let components: Vec<&str> =
                    spec.components.iter().map(|c| c.name.as_str()).collect();
                let state = Matrix::parse(one)
                    .err()
                    .map_or_else(|| "valid".to_owned(), |e| format!("invalid: {e}"));
                table.row([
                    one.name_any(),
                    spec.subject.component.clone(),
                    components.join(","),
                    spec.rows.len().to_string(),
                    state,
                ]);
            }
            printer.data(&table.render(Printer::width()))?;
        }
    }
    Ok(())
}
