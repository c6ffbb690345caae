//! When changes may be made: MaintenanceWindows at an instant.
//!
//! An active Deny (a freeze) always wins. Where Allow windows match a change, one of them must be
//! open; where none matches, it may go. What can't be read counts against the change: such a Deny
//! is always active, such an Allow is always shut.
//!
//! [`why_shut`] answers the admission path: it allocates nothing where the change may go. [`state`]
//! looks ahead as well, for people and for the controller's timer, up to a year.

mod window;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use crate::api::{Change, StrategyName, WindowKind};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

pub use window::{Span, Window, WindowError};

/// How far ahead is looked: a year.
pub const HORIZON: SignedDuration = SignedDuration::from_hours(366 * 24);
/// How many times in a year a freeze may begin or end before the search for an opening gives up.
const TURNS: usize = 10_000;

/// The change that asks.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Labels of the workload's namespace.
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// Labels of the workload itself.
    pub workload_labels: &'a BTreeMap<String, String>,
    /// Name of the UpgradePolicy that governs it; where several do, ask for each of them.
    pub policy: &'a str,
    /// How it would be rolled out.
    pub strategy: StrategyName,
    /// How large it is.
    pub change: Change,
}

/// What windows say about a change at an instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It may go.
    Open {
        /// The first instant at which it may no longer. None: not within [`HORIZON`].
        until: Option<Timestamp>,
        /// Names of the Allow windows that are open. Empty: no Allow window matches.
        by: Vec<String>,
    },
    /// It may not.
    Shut {
        /// What is in the way.
        why: Why,
        /// The first instant at which it may, freezes considered. None: not within [`HORIZON`].
        next: Option<Timestamp>,
    },
}

/// What is in the way of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A freeze is active.
    Freeze {
        /// Name of the window.
        window: String,
        /// What its owner says, or what is wrong with it.
        reason: Option<String>,
    },
    /// Allow windows match, and none of them is open.
    NoneOpen {
        /// Their names.
        windows: Vec<String>,
    },
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Freeze { window, reason: Some(reason) } => {
                write!(f, "frozen by MaintenanceWindow {window}: {reason}")
            }
            Self::Freeze { window, reason: None } => {
                write!(f, "frozen by MaintenanceWindow {window}")
            }
            Self::NoneOpen { windows } if windows.len() == 1 => {
                write!(f, "outside of MaintenanceWindow {}", windows.join(""))
            }
            Self::NoneOpen { windows } => {
                write!(f, "outside of MaintenanceWindows {}", windows.join(", "))
            }
        }
    }
}

/// An instant at which windows change their mind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// When.
    pub at: Timestamp,
    /// Whether the change may go from then on.
    pub open: bool,
}

/// What is in the way of the change now; None where it may go.
///
/// It looks at this instant only and allocates nothing unless something is in the way.
pub fn why_shut(windows: &[Window], subject: &Subject<'_>, now: Timestamp) -> Option<Why> {
    let of = |kind| windows.iter().filter(move |w| w.kind() == kind && w.matches(subject));
    if let Some(freeze) = of(WindowKind::Deny).find(|w| w.is_active(now)) {
        let reason = freeze.problem().map(ToString::to_string);
        return Some(Why::Freeze {
            window: freeze.name().to_owned(),
            reason: reason.or_else(|| freeze.reason().map(str::to_owned)),
        });
    }
    let mut some = false;
    for allow in of(WindowKind::Allow) {
        if allow.is_active(now) {
            return None;
        }
        some = true;
    }
    let names = || of(WindowKind::Allow).map(|w| w.name().to_owned()).collect();
    some.then(|| Why::NoneOpen { windows: names() })
}

/// What windows say about the change now, until when, and when they say otherwise.
pub fn state(windows: &[Window], subject: &Subject<'_>, now: Timestamp) -> State {
    let matching = Matching { windows, subject };
    match why_shut(windows, subject, now) {
        Some(why) => State::Shut { why, next: matching.next_open(now) },
        None => State::Open {
            until: matching.next_shut(now),
            by: matching
                .of(WindowKind::Allow)
                .filter(|w| w.is_active(now))
                .map(|w| w.name().to_owned())
                .collect(),
        },
    }
}

/// The instants later than `from` at which it changes, in order, whether the change may go. Ends
/// where nothing changes within [`HORIZON`] of the last one.
pub fn transitions<'a>(
    windows: &'a [Window],
    subject: &'a Subject<'a>,
    from: Timestamp,
) -> impl Iterator<Item = Transition> + 'a {
    let matching = Matching { windows, subject };
    let mut open = why_shut(windows, subject, from).is_none();
    let mut at = from;
    std::iter::from_fn(move || {
        at = if open { matching.next_shut(at)? } else { matching.next_open(at)? };
        open = !open;
        Some(Transition { at, open })
    })
}

/// The windows that match a subject; nothing is collected.
#[derive(Clone, Copy)]
struct Matching<'a> {
    windows: &'a [Window],
    subject: &'a Subject<'a>,
}

impl<'a> Matching<'a> {
    fn of(self, kind: WindowKind) -> impl Iterator<Item = &'a Window> {
        self.windows.iter().filter(move |w| w.kind() == kind && w.matches(self.subject))
    }

    /// When the last of the windows of a kind that are active at an instant, or follow on each
    /// other without a pause, has ended. None where none is active.
    fn runs_until(self, kind: WindowKind, at: Timestamp, limit: Timestamp) -> Option<Timestamp> {
        let end = |at| self.of(kind).filter_map(|w| w.active_until(at, limit)).max();
        let mut until = end(at)?;
        while until < limit
            && let Some(further) = end(until)
        {
            until = further;
        }
        Some(until)
    }

    /// The first instant from `at` on, where it is open, at which it is shut.
    fn next_shut(self, at: Timestamp) -> Option<Timestamp> {
        let limit = limit(at);
        let freeze = self.of(WindowKind::Deny).filter_map(|w| w.next_active(at)).min();
        let freeze = freeze.unwrap_or(Timestamp::MAX);
        let allowed = if self.of(WindowKind::Allow).next().is_some() {
            self.runs_until(WindowKind::Allow, at, limit.min(freeze)).unwrap_or(at)
        } else {
            Timestamp::MAX
        };
        Some(freeze.min(allowed)).filter(|shut| *shut < limit)
    }

    /// The first instant from `at` on, where it is shut, at which it is open.
    fn next_open(self, at: Timestamp) -> Option<Timestamp> {
        let limit = limit(at);
        let any = self.of(WindowKind::Allow).next().is_some();
        let mut at = at;
        for _ in 0..TURNS {
            if at >= limit {
                return None;
            }
            if let Some(thawed) = self.runs_until(WindowKind::Deny, at, limit) {
                at = thawed;
            } else if !any || self.of(WindowKind::Allow).any(|w| w.is_active(at)) {
                return Some(at);
            } else {
                at = self.of(WindowKind::Allow).filter_map(|w| w.next_active(at)).min()?;
            }
        }
        None
    }
}

fn limit(at: Timestamp) -> Timestamp {
    at.saturating_add(HORIZON).unwrap_or(Timestamp::MAX)
}
