//! What a refusal says: the reason, the evidence, what can change it and the command that helps.

use std::fmt;

/// Reason of a refusal for machines: `status.reason` of the API error, and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The webhook has not seen every namespace, policy, ledger and Upgrade yet.
    NotReady,
    /// An image change of a governed workload that no Upgrade covers.
    UpgradeRequired,
    /// The workload is in flight: its template and guarded fields belong to the Upgrade.
    InFlight,
    /// The in-flight label is the controller's alone.
    LabelReserved,
    /// Our own controller asked for images that the Upgrade does not name.
    NotCovered,
    /// Our own controller asked for a canary without the fields that hold it back.
    NotHeldBack,
    /// A change under mode `Hold` that was not held: the stamping webhook did not answer.
    NotHeld,
    /// The Upgrade that a request names does not exist.
    UpgradeNotFound,
    /// The Upgrade is in a phase in which the request makes no sense.
    WrongPhase,
    /// The images are not those the ledger knows for a workload of this name.
    LedgerMismatch,
    /// The policy wants an Upgrade even for a workload that was never seen before.
    FirstInstall,
    /// The pods would fall into the selector of a governed workload.
    SelectorTaken,
    /// An identity field does not say who made the request.
    IdentityMismatch,
    /// An Upgrade from an image to itself.
    NothingChanges,
    /// An Upgrade brings orders along.
    OrdersPreset,
    /// The policy of a target does not allow the strategy.
    StrategyNotAllowed,
    /// The policy of a target does not let this person ask.
    RequesterNotAllowed,
    /// The policy of a target does not allow the registry of an image.
    RegistryNotAllowed,
    /// The policy of a target wants images named by digest.
    DigestRequired,
    /// An ephemeral container with an image that the policy does not list.
    EphemeralContainerNotAllowed,
    /// Another Upgrade has the workload already.
    WorkloadBusy,
    /// The user lacks a right.
    AccessDenied,
    /// The finalizer is what puts the guarded fields back.
    FinalizerGuarded,
    /// An approval for another plan than the one that is there.
    StalePlan,
    /// An approval of more or less than the policy asks for, or of what the plan does not have.
    ScopeMismatch,
    /// The policy does not count this person's approval.
    ApproverNotAllowed,
    /// Approving one's own Upgrade.
    OwnUpgrade,
    /// A field of one of our own objects cannot be read.
    InvalidField,
    /// Matrices do not let the versions pass that an Upgrade brings together.
    Incompatible,
    /// Only the controller writes this.
    ControllerOnly,
    /// The live read or the access review failed.
    Unconfirmed,
    /// The request could not be read.
    Malformed,
    /// The webhook failed; see its log.
    InternalError,
}

impl Reason {
    /// The reason in CamelCase, as the API error carries it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotReady => "NotReady",
            Self::UpgradeRequired => "UpgradeRequired",
            Self::InFlight => "InFlight",
            Self::LabelReserved => "LabelReserved",
            Self::NotCovered => "NotCovered",
            Self::NotHeldBack => "NotHeldBack",
            Self::NotHeld => "NotHeld",
            Self::UpgradeNotFound => "UpgradeNotFound",
            Self::WrongPhase => "WrongPhase",
            Self::LedgerMismatch => "LedgerMismatch",
            Self::FirstInstall => "FirstInstall",
            Self::SelectorTaken => "SelectorTaken",
            Self::IdentityMismatch => "IdentityMismatch",
            Self::NothingChanges => "NothingChanges",
            Self::OrdersPreset => "OrdersPreset",
            Self::StrategyNotAllowed => "StrategyNotAllowed",
            Self::RequesterNotAllowed => "RequesterNotAllowed",
            Self::RegistryNotAllowed => "RegistryNotAllowed",
            Self::DigestRequired => "DigestRequired",
            Self::EphemeralContainerNotAllowed => "EphemeralContainerNotAllowed",
            Self::WorkloadBusy => "WorkloadBusy",
            Self::AccessDenied => "AccessDenied",
            Self::FinalizerGuarded => "FinalizerGuarded",
            Self::StalePlan => "StalePlan",
            Self::ScopeMismatch => "ScopeMismatch",
            Self::ApproverNotAllowed => "ApproverNotAllowed",
            Self::OwnUpgrade => "OwnUpgrade",
            Self::InvalidField => "InvalidField",
            Self::Incompatible => "Incompatible",
            Self::ControllerOnly => "ControllerOnly",
            Self::Unconfirmed => "Unconfirmed",
            Self::Malformed => "Malformed",
            Self::InternalError => "InternalError",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a request is refused, for people and machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Reason for machines.
    pub reason: Reason,
    /// What is refused, in one sentence.
    pub what: String,
    /// The evidence: what was found, and where.
    pub why: String,
    /// What would change the answer, and when.
    pub help: String,
    /// Command that helps, ready to paste.
    pub command: Option<String>,
}

impl Refusal {
    /// A refusal; all three texts are sentences without a full stop.
    pub fn new(
        reason: Reason,
        what: impl Into<String>,
        why: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { reason, what: what.into(), why: why.into(), help: help.into(), command: None }
    }

    /// The same with the command that helps.
    #[must_use]
    pub fn run(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // kubectl prints `status.reason` for some commands only, so the message says it too.
        let Self { reason, what, why, help, command } = self;
        write!(f, "{what} ({reason})\n  why: {why}\n  help: {help}")?;
        match command {
            Some(command) => write!(f, "\n  run: {command}"),
            None => Ok(()),
        }
    }
}
