//! The steps of a canary, and how many pods each asks for.

use super::law;
use super::managed::{self, RouteStep};
use super::plan::{PlanError, duration};
use crate::api::analysis::AnalysisRef;
use crate::api::upgrade::{CanaryStep, Pause};
use jiff::SignedDuration;

const ONE_OF: &str = "needs exactly one of `setWeight`, `setReplicas`, `pause`, `analysis`, \
    `setHeaderRoute` and `setMirrorRoute`";

/// One step of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Share of the replicas on the new images, in percent.
    Weight(i32),
    /// Pods on the new images, of each target: all of them where it has no more.
    Replicas(i32),
    /// A rest.
    Pause(Rest),
    /// A rest until metrics have said yes.
    Analysis(Box<AnalysisRef>),
    /// A route of our own comes, changes or goes. It moves no pods and waits for nobody.
    Route(Box<RouteStep>),
}

impl Step {
    /// The pods before it are held while it lasts.
    pub fn rests(&self) -> bool {
        !self.moves()
    }

    /// Time, people or metrics end it.
    pub fn is_rest(&self) -> bool {
        matches!(self, Self::Pause(_) | Self::Analysis(_))
    }

    /// What it says of a route of our own.
    pub fn route(&self) -> Option<&RouteStep> {
        match self {
            Self::Route(route) => Some(route),
            _ => None,
        }
    }

    /// It asks for pods.
    pub fn moves(&self) -> bool {
        matches!(self, Self::Weight(_) | Self::Replicas(_))
    }

    /// The pods that it asks for; none where it asks for none.
    pub fn share(&self) -> Share {
        match self {
            Self::Weight(weight) => Share { weight: *weight, pods: 0 },
            Self::Replicas(pods) => Share { weight: 0, pods: *pods },
            Self::Pause(_) | Self::Analysis(_) | Self::Route(_) => Share::default(),
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Weight(weight) => write!(f, "weight {weight}"),
            Self::Replicas(1) => f.write_str("1 pod"),
            Self::Replicas(pods) => write!(f, "{pods} pods"),
            Self::Pause(_) => f.write_str("a pause"),
            Self::Analysis(_) => f.write_str("an analysis"),
            Self::Route(route) => route.fmt(f),
        }
    }
}

/// How long a rest lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// For so long, or until somebody promotes.
    For(SignedDuration),
    /// Until somebody promotes.
    UntilPromoted,
    /// Until somebody other than the requester approves the step.
    UntilApproved,
}

/// How many pods are to run the new images: whichever of the two is more, of the replicas there are
/// at that moment. Nought in both asks for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// In percent of the replicas, 0 to 100.
    pub weight: i32,
    /// In pods, at least 0.
    pub pods: i32,
}

impl Share {
    /// Everything.
    pub const ALL: Self = Self { weight: 100, pods: 0 };

    /// The most that steps up to and including one ask for: a canary in place only grows, and which
    /// of a weight and a number is more is not known before the replicas are.
    pub fn up_to(steps: &[Step], at: usize) -> Self {
        steps.iter().take(at + 1).map(Step::share).fold(Self::default(), |most, next| Self {
            weight: most.weight.max(next.weight),
            pods: most.pods.max(next.pods),
        })
    }

    /// All pods, however many there come to be.
    pub fn is_full(self) -> bool {
        self.weight >= 100
    }

    /// All of so many pods.
    pub fn is_all_of(self, replicas: i32) -> bool {
        self.is_full() || (replicas > 0 && self.pods >= replicas)
    }

    /// Pods of the canary, never more than there are.
    pub fn count(self, replicas: i32) -> i32 {
        self.by_weight(replicas).max(self.by_number(replicas))
    }

    /// Pods of the canary where nothing surges: a weight under 100 leaves an old pod, a number does
    /// what it says.
    pub fn count_without_surge(self, replicas: i32) -> i32 {
        if self.is_all_of(replicas) {
            return replicas;
        }
        let by_weight = self.by_weight(replicas).min(replicas - 1);
        by_weight.max(self.by_number(replicas)).max(0)
    }

    /// The number decides, and not the weight: it, where it does.
    pub fn number(self, replicas: i32) -> Option<i32> {
        let more = self.by_number(replicas) > self.by_weight(replicas);
        (self.pods > 0 && (self.weight == 0 || more)).then_some(self.pods)
    }

    /// As a weight: the smallest whole percentage that so many pods are no more than; 100 for all of
    /// them only.
    pub fn in_percent(self, replicas: i32) -> i32 {
        if self.is_all_of(replicas) {
            return 100;
        }
        if self.number(replicas).is_none() {
            return self.weight;
        }
        let (pods, all) = (i64::from(self.pods), i64::from(replicas.max(1)));
        i32::try_from((pods * 100 + all - 1) / all).unwrap_or(99).clamp(1, 99)
    }

    fn by_weight(self, replicas: i32) -> i32 {
        if self.weight <= 0 { 0 } else { law::canary_count(self.weight, replicas) }
    }

    fn by_number(self, replicas: i32) -> i32 {
        self.pods.min(replicas).max(0)
    }
}

/// Reads the list of a canary. After the last step it is at 100, whether the list says so or not;
/// `down` says that what is asked for may shrink before that.
pub(crate) fn read(stage: usize, list: &[CanaryStep], down: bool) -> Result<Vec<Step>, PlanError> {
    let mut steps = Vec::with_capacity(list.len() + 1);
    let (mut weight, mut pods) = (0, 0);
    for (i, step) in list.iter().enumerate() {
        let wrong = |why: String| PlanError::Step(stage, i, why);
        if let Some(route) = managed::read(step) {
            let alone = [step.set_weight.is_some(), step.set_replicas.is_some()];
            if alone.contains(&true) || step.pause.is_some() || step.analysis.is_some() {
                return Err(wrong(ONE_OF.to_owned()));
            }
            steps.push(Step::Route(Box::new(route.map_err(wrong)?)));
            managed::in_place(&steps, weight).map_err(wrong)?;
            continue;
        }
        steps.push(match (step.set_weight, step.set_replicas, &step.pause, &step.analysis) {
            (Some(w), None, None, None) => {
                let floor = if down && weight < 100 { 0 } else { weight };
                weight = grown(w, floor, "setWeight").map_err(wrong)?;
                if w > 100 {
                    return Err(wrong(format!(
                        "setWeight is {w}; it is a percentage from 1 to 100"
                    )));
                }
                Step::Weight(w)
            }
            (None, Some(k), None, None) => {
                pods = grown(k, if down { 0 } else { pods }, "setReplicas").map_err(wrong)?;
                Step::Replicas(k)
            }
            (None, None, Some(pause), None) => Step::Pause(rest(stage, i, pause)?),
            (None, None, None, Some(asked)) => Step::Analysis(Box::new(asked.clone())),
            _ => return Err(wrong(ONE_OF.to_owned())),
        });
    }
    if weight < 100 {
        steps.push(Step::Weight(100));
    }
    Ok(steps)
}

fn grown(value: i32, before: i32, field: &str) -> Result<i32, String> {
    if value < 1 {
        let unit = if field == "setWeight" { "a percentage from 1 to 100" } else { "at least 1" };
        return Err(format!("{field} is {value}; it is {unit}"));
    }
    if value < before {
        return Err(format!("{field} goes down from {before} to {value}; it only grows"));
    }
    Ok(value)
}

fn rest(stage: usize, at: usize, pause: &Pause) -> Result<Rest, PlanError> {
    match (&pause.duration, pause.until_approval) {
        (Some(_), true) => {
            let why = "a pause is for a `duration` or `untilApproval`, not both".to_owned();
            Err(PlanError::Step(stage, at, why))
        }
        (Some(text), false) => Ok(Rest::For(duration("pause.duration", text)?)),
        (None, true) => Ok(Rest::UntilApproved),
        (None, false) => Ok(Rest::UntilPromoted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_is_so_many_pods_and_never_more_than_there_are() {
        let three = Share { weight: 0, pods: 3 };
        for (replicas, count, percent) in
            [(0, 0, 1), (1, 1, 100), (3, 3, 100), (4, 3, 75), (10, 3, 30), (7, 3, 43), (1000, 3, 1)]
        {
            assert_eq!(three.count(replicas), count, "{replicas}");
            assert_eq!(three.count_without_surge(replicas), count, "{replicas}");
            if replicas > 0 {
                assert_eq!(three.in_percent(replicas), percent, "{replicas}");
            }
        }
        assert!(three.is_all_of(3) && !three.is_all_of(4) && !three.is_all_of(0));
        // The only pod there is, by whichever of the two.
        assert_eq!(Share { weight: 1, pods: 1 }.in_percent(1), 100);
        assert!(!three.is_full(), "its replicas may grow");
    }

    #[test]
    fn of_a_mixed_list_the_most_that_was_asked_for_holds() {
        let steps = [Step::Weight(50), Step::Pause(Rest::UntilPromoted), Step::Replicas(3)];
        let share = Share::up_to(&steps, 2);
        assert_eq!((share.count(4), share.number(4)), (3, Some(3)));
        assert_eq!((share.count(10), share.number(10)), (5, None));
        assert_eq!(share.in_percent(10), 50);
        assert_eq!(Share::up_to(&steps, 1), Share { weight: 50, pods: 0 });
    }

    #[test]
    fn lists_that_go_down_are_refused_by_field() {
        let list = |text: &str| -> Vec<CanaryStep> { serde_json::from_str(text).expect("steps") };
        for (text, part) in [
            (r#"[{"setReplicas":0}]"#, "setReplicas is 0; it is at least 1"),
            (r#"[{"setReplicas":3},{"setReplicas":2}]"#, "setReplicas goes down from 3 to 2"),
            (r#"[{"setWeight":3},{"setReplicas":2},{"setWeight":2}]"#, "setWeight goes down"),
            (r#"[{"setWeight":101}]"#, "a percentage from 1 to 100"),
            (r#"[{"setWeight":1,"setReplicas":2}]"#, "exactly one of"),
            ("[{}]", "exactly one of"),
        ] {
            let error = read(0, &list(text), false).expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
        let read = read(0, &list(r#"[{"setReplicas":2},{"setWeight":50}]"#), false).expect("fine");
        assert_eq!(read, [Step::Replicas(2), Step::Weight(50), Step::Weight(100)]);
    }

    proptest! {
        /// A share only grows along its list, at every size, and its percentage tells all of them
        /// from fewer.
        #[test]
        fn shares_never_go_down(
            replicas in 1..=1000i32,
            mut weights in prop::collection::vec(1..=100i32, 0..5),
            mut pods in prop::collection::vec(1..=1000i32, 1..5),
            order in any::<u16>(),
        ) {
            weights.sort_unstable();
            pods.sort_unstable();
            let (mut weights, mut pods) = (weights.into_iter(), pods.into_iter());
            let mut steps = vec![];
            for bit in 0..10 {
                let number = order & (1 << bit) != 0;
                let next = if number { pods.next().map(Step::Replicas) } else { weights.next().map(Step::Weight) };
                steps.extend(next);
            }
            let mut before = 0;
            for at in 0..steps.len() {
                let share = Share::up_to(&steps, at);
                let (count, still) = (share.count(replicas), share.count_without_surge(replicas));
                prop_assert!(count >= before && count <= replicas && still <= count);
                if let Step::Replicas(k) = steps[at] {
                    prop_assert!(count >= k.min(replicas) && still >= k.min(replicas));
                }
                let percent = share.in_percent(replicas);
                prop_assert!((1..=100).contains(&percent));
                prop_assert!((percent == 100) == share.is_all_of(replicas));
                // Rounding down, as weights are, such a percentage gives no pod less.
                if replicas <= 100 && share.number(replicas).is_some() {
                    prop_assert_eq!(law::canary_count(percent, replicas), count);
                }
                before = count;
            }
        }
    }
}
