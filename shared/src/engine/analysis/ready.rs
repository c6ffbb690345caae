//! Before anything is written: every template is there and can be measured by.

use super::{Hindrance, after, borrowed};
use crate::analysis::args::{Arg, Args};
use crate::analysis::template::{Metric, Origin, arguments, check, compile};
use crate::api::analysis::AnalysisRef;
use crate::engine::Walk;
use crate::engine::plan::PlanStage;
use jiff::SignedDuration;

/// How long a template may come after the Upgrade that names it.
const ARRIVAL: SignedDuration = SignedDuration::from_secs(3);

/// What is to be done about the templates of a plan.
pub(crate) enum Ready {
    /// They are there.
    Yes,
    /// They have not been listed yet, or may still come.
    NotYet(String),
    /// The plan cannot run, and why.
    Never(String),
}

impl Walk<'_> {
    /// Whether every analysis of the plan can be made.
    pub(crate) fn analyses_ready(&mut self) -> Ready {
        let plan = self.plan;
        for (asked, background) in plan.stages.iter().flat_map(PlanStage::analyses) {
            match self.analysis_ready(asked, background) {
                Ok(()) => {}
                Err(Hindrance::Wait) => {
                    return Ready::NotYet("reads the AnalysisTemplates".to_owned());
                }
                Err(Hindrance::Said(why)) => {
                    let until = after(self.observed.created, ARRIVAL).filter(|t| *t > self.now);
                    let Some(until) = until else {
                        return Ready::Never(format!("{why}; nothing was touched"));
                    };
                    self.alarms.push(until);
                    return Ready::NotYet(why);
                }
            }
        }
        Ready::Yes
    }

    /// Whether one analysis can be made, whatever its arguments from objects will be.
    pub(crate) fn analysis_ready(
        &mut self,
        asked: &AnalysisRef,
        background: bool,
    ) -> Result<(), Hindrance> {
        let templates = self.templates(asked)?;
        let templates = borrowed(&templates);
        let mut args = Args::new();
        let mut known = true;
        for (name, origin) in arguments(&templates, asked).map_err(Hindrance::Said)? {
            let (value, from) = match origin {
                Origin::Given(arg) => (&arg.value, &arg.value_from),
                Origin::Written(arg) => (&arg.value, &arg.value_from),
            };
            let secret = from.as_ref().and_then(|f| f.secret_key_ref.clone());
            let arg = match (value, secret) {
                (Some(text), _) => Arg::Text(text.clone()),
                (None, Some(secret)) => Arg::Secret(secret),
                (None, None) => {
                    known = false;
                    Arg::Unknown
                }
            };
            args.insert(name.to_owned(), arg);
        }
        if !known {
            for (name, spec) in &templates {
                let at = |why| Hindrance::Said(format!("AnalysisTemplate {name}: {why}"));
                check(spec).map_err(at)?;
            }
            return Ok(());
        }
        let metrics = compile(&templates, asked, &args).map_err(Hindrance::Said)?;
        let endless = |m: &&Metric| m.count.is_none() && m.consecutive_success_limit == 0;
        match metrics.iter().find(endless).filter(|_| !background) {
            Some(metric) => Err(Hindrance::Said(format!(
                "metric {} has an interval and no count: it never ends, and only `canary.analysis` \
                 runs beside the steps",
                metric.name
            ))),
            None => Ok(()),
        }
    }
}
