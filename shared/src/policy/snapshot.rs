//! What is known of the cluster: immutable, one shared view for each namespace.

use crate::api::status::Phase;
use crate::api::upgrade::WorkloadTarget;
use crate::api::{
    CompatibilityMatrix, GOVERNED_LABEL, Identity, LedgerEntry, MaintenanceWindow, Mode, Upgrade,
    UpgradeLedger, UpgradePolicy, UpgradePolicySpec, WorkloadKind,
};
use crate::matrix::{Matrix, MatrixError};
use crate::plan::plan_hash;
use crate::windows::Window;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Everything a decision may look at.
///
/// Cloning copies one pointer for each namespace; a change then copies the namespace it touches
/// and nothing else.
#[derive(Clone, Debug)]
pub struct Snapshot {
    own: Arc<str>,
    synced: bool,
    namespaces: HashMap<Arc<str>, Arc<NamespaceView>>,
    policies: BTreeMap<Arc<str>, Arc<PolicyView>>,
    windows: Arc<Vec<Window>>,
    matrices: Arc<BTreeMap<String, Result<Matrix, MatrixError>>>,
    governance: u64,
}

/// One namespace: whether it is governed, by what, and what is under way in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamespaceView {
    seen: bool,
    governed: bool,
    labels: Arc<Labels>,
    policies: Vec<Arc<PolicyView>>,
    ledger: Arc<LedgerView>,
    upgrades: BTreeMap<Arc<str>, Arc<UpgradeView>>,
}

/// A policy and its name.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyView {
    /// Name of the UpgradePolicy.
    pub name: String,
    /// What it says.
    pub spec: UpgradePolicySpec,
}

/// The ledger of a namespace, by name of the workload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LedgerView {
    entries: BTreeMap<String, Vec<LedgerEntry>>,
}

/// What a decision needs to know of an Upgrade.
#[derive(Clone, Debug, PartialEq)]
pub struct UpgradeView {
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// `status.phase`
    pub phase: Phase,
    /// `status.message`: what it waits for.
    pub message: String,
    /// The workloads of all its stages, with their images.
    pub targets: Vec<WorkloadTarget>,
    /// Who asked for it.
    pub requester: Option<Identity>,
    /// Mode `Hold` opened it.
    pub held: bool,
    /// Hash of its plan, computed from the spec.
    pub plan_hash: String,
}

impl Snapshot {
    /// An empty snapshot, not synced. `own` is the username of our own service account.
    pub fn new(own: &str) -> Self {
        Self {
            own: own.into(),
            synced: false,
            namespaces: HashMap::new(),
            policies: BTreeMap::new(),
            windows: Arc::default(),
            matrices: Arc::default(),
            governance: 0,
        }
    }

    /// Every MaintenanceWindow, by name.
    pub fn windows(&self) -> &[Window] {
        &self.windows
    }

    /// A window was created or changed. One that cannot be read is kept, and counts as shut.
    pub fn set_window(&mut self, window: &MaintenanceWindow) {
        let window = Window::compile(window);
        let mut all = self.windows.to_vec();
        all.retain(|w| w.name() != window.name());
        all.push(window);
        all.sort_by(|a, b| a.name().cmp(b.name()));
        self.windows = Arc::new(all);
        self.governance += 1;
    }

    /// Every CompatibilityMatrix, by name; one that cannot be read says so.
    pub fn matrices(&self) -> impl Iterator<Item = &Result<Matrix, MatrixError>> {
        self.matrices.values()
    }

    /// A matrix was created or changed.
    pub fn set_matrix(&mut self, matrix: &CompatibilityMatrix) {
        let name = matrix.metadata.name.clone().unwrap_or_default();
        Arc::make_mut(&mut self.matrices).insert(name, Matrix::parse(matrix));
        self.governance += 1;
    }

    /// A matrix is gone.
    pub fn remove_matrix(&mut self, name: &str) {
        Arc::make_mut(&mut self.matrices).remove(name);
        self.governance += 1;
    }

    /// A window is gone.
    pub fn remove_window(&mut self, name: &str) {
        let mut all = self.windows.to_vec();
        all.retain(|w| w.name() != name);
        self.windows = Arc::new(all);
        self.governance += 1;
    }

    /// Counts changes of policies, windows and namespaces: what an Upgrade needs may be another now.
    pub fn governance(&self) -> u64 {
        self.governance
    }

    /// Whether the user is our own service account.
    pub fn is_own(&self, username: &str) -> bool {
        !username.is_empty() && *self.own == *username
    }

    /// Whether every source has been listed at least once.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// Says whether every source has been listed.
    pub fn set_synced(&mut self, synced: bool) {
        self.synced = synced;
    }

    /// The namespace, once its object has been seen.
    pub fn namespace(&self, name: &str) -> Option<&NamespaceView> {
        self.namespaces.get(name).map(AsRef::as_ref).filter(|n| n.seen)
    }

    /// The same, to be kept until a question is answered.
    pub fn shared_namespace(&self, name: &str) -> Option<Arc<NamespaceView>> {
        self.namespaces.get(name).filter(|n| n.seen).cloned()
    }

    /// Upgrades of a namespace, also before the namespace itself was seen.
    pub fn upgrades(&self, namespace: &str) -> impl Iterator<Item = &UpgradeView> {
        self.namespaces
            .get(namespace)
            .into_iter()
            .flat_map(|n| n.upgrades.values())
            .map(Arc::as_ref)
    }

    /// How many namespaces are known.
    pub fn len(&self) -> usize {
        self.namespaces.len()
    }

    /// Whether no namespace is known.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }

    /// A namespace was created or changed.
    pub fn set_namespace(&mut self, name: &str, labels: Labels) {
        let governed = labels.get(GOVERNED_LABEL).is_some_and(|v| v != "false");
        let policies = if governed { matching(&self.policies, &labels) } else { Vec::new() };
        self.governance += 1;
        let view = self.view_mut(name);
        view.seen = true;
        view.governed = governed;
        view.labels = Arc::new(labels);
        view.policies = policies;
    }

    /// A namespace is gone. What was in it goes with its own events: these come by other watches,
    /// and those of a namesake made since must not be lost.
    pub fn remove_namespace(&mut self, name: &str) {
        if self.namespaces.contains_key(name) {
            let view = self.view_mut(name);
            (view.seen, view.governed) = (false, false);
            view.labels = Arc::default();
            view.policies.clear();
            self.forget_if_empty(name);
        }
    }

    /// A policy was created or changed; copies the namespaces it comes to, leaves or changes in.
    pub fn set_policy(&mut self, policy: &UpgradePolicy) {
        let name = policy.metadata.name.clone().unwrap_or_default();
        let view = Arc::new(PolicyView { name: name.clone(), spec: policy.spec.clone() });
        if self.policies.get(name.as_str()) == Some(&view) {
            return;
        }
        self.policies.insert(name.as_str().into(), view);
        self.rematch(&name);
    }

    /// A policy is gone.
    pub fn remove_policy(&mut self, name: &str) {
        if self.policies.remove(name).is_some() {
            self.rematch(name);
        }
    }

    /// An Upgrade was created or changed.
    pub fn set_upgrade(&mut self, upgrade: &Upgrade) {
        let namespace = upgrade.metadata.namespace.as_deref().unwrap_or_default();
        let view = UpgradeView::of(upgrade);
        let key: Arc<str> = view.name.as_str().into();
        self.view_mut(namespace).upgrades.insert(key, Arc::new(view));
    }

    /// An Upgrade is gone.
    pub fn remove_upgrade(&mut self, namespace: &str, name: &str) {
        if self.namespaces.contains_key(namespace) {
            self.view_mut(namespace).upgrades.remove(name);
            self.forget_if_empty(namespace);
        }
    }

    /// The ledger of a namespace was created or changed.
    pub fn set_ledger(&mut self, ledger: &UpgradeLedger) {
        let namespace = ledger.metadata.namespace.as_deref().unwrap_or_default();
        let mut view = LedgerView::default();
        for entry in &ledger.spec.entries {
            view.entries.entry(entry.name.clone()).or_default().push(entry.clone());
        }
        self.view_mut(namespace).ledger = Arc::new(view);
    }

    /// The ledger of a namespace is gone.
    pub fn remove_ledger(&mut self, namespace: &str) {
        if self.namespaces.contains_key(namespace) {
            self.view_mut(namespace).ledger = Arc::default();
            self.forget_if_empty(namespace);
        }
    }

    fn view_mut(&mut self, namespace: &str) -> &mut NamespaceView {
        Arc::make_mut(self.namespaces.entry(namespace.into()).or_default())
    }

    /// Objects may outlive the event of their namespace's end; then the last of them ends the view.
    fn forget_if_empty(&mut self, namespace: &str) {
        let gone = self
            .namespaces
            .get(namespace)
            .is_some_and(|n| !n.seen && n.upgrades.is_empty() && n.ledger.entries.is_empty());
        if gone {
            self.namespaces.remove(namespace);
        }
    }

    fn rematch(&mut self, policy: &str) {
        self.governance += 1;
        for view in self.namespaces.values_mut().filter(|n| n.governed) {
            let now = matching(&self.policies, &view.labels);
            let had = view.policies.iter().any(|p| p.name == policy);
            if had || now.iter().any(|p| p.name == policy) {
                Arc::make_mut(view).policies = now;
            }
        }
    }
}

fn matching(policies: &BTreeMap<Arc<str>, Arc<PolicyView>>, ns: &Labels) -> Vec<Arc<PolicyView>> {
    let holds =
        |p: &&Arc<PolicyView>| p.spec.namespace_selector.as_ref().is_none_or(|s| s.matches(ns));
    policies.values().filter(holds).cloned().collect()
}

impl NamespaceView {
    /// Labels of the namespace.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Whether the namespace opted in.
    pub fn governed(&self) -> bool {
        self.governed
    }

    /// Policies that hold in this namespace.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyView> {
        self.policies.iter().map(AsRef::as_ref)
    }

    /// What the ledger says of a workload.
    pub fn entry(&self, kind: WorkloadKind, name: &str) -> Option<&LedgerEntry> {
        self.ledger.entries.get(name)?.iter().find(|e| e.kind == kind)
    }

    /// Every entry of the ledger.
    pub fn entries(&self) -> impl Iterator<Item = &LedgerEntry> {
        self.ledger.entries.values().flatten()
    }

    /// Entries whose workloads would take pods with these labels for their own.
    pub fn selecting<'v>(&'v self, pods: &Labels) -> impl Iterator<Item = &'v LedgerEntry> {
        let selects = |e: &&LedgerEntry| {
            e.selector.as_ref().is_some_and(|s| !s.is_empty() && s.matches(pods))
        };
        // Without labels nothing can be selected.
        self.entries().filter(move |e| !pods.is_empty() && selects(e))
    }

    /// The policy that governs a workload of which only the name is known: by the labels that the
    /// ledger noted, and where it knows none, by the kind alone.
    pub fn policy_of(&self, kind: WorkloadKind, name: &str) -> Option<&PolicyView> {
        match self.entry(kind, name) {
            Some(entry) => self.most_specific(kind, &entry.labels),
            None => self.most_specific(kind, &Labels::new()),
        }
    }

    /// The policy that governs a workload with these labels: the most specific one.
    ///
    /// The labels that the ledger noted when it first saw the workload are asked for, too, and of
    /// the two answers the stricter one holds: neither taking a label off nor putting one on may be
    /// the first half of a change that nobody approved. A policy that is narrowed lets go at once.
    pub fn policy<'v>(
        &'v self,
        kind: WorkloadKind,
        name: &str,
        labels: &Labels,
    ) -> Option<&'v PolicyView> {
        if self.policies.is_empty() {
            return None;
        }
        let now = self.most_specific(kind, labels);
        let noted = self.entry(kind, name).and_then(|e| self.most_specific(kind, &e.labels));
        stricter(now, noted)
    }

    fn most_specific(&self, kind: WorkloadKind, labels: &Labels) -> Option<&PolicyView> {
        let selecting = self.policies().filter(|p| p.selects(kind, labels));
        // Policies come by name, and `max_by` gives the last of equals: the first is to hold.
        selecting.reduce(|a, b| if b.precedence() > a.precedence() { b } else { a })
    }

    /// The Upgrade of this name.
    pub fn upgrade(&self, name: &str) -> Option<&UpgradeView> {
        self.upgrades.get(name).map(AsRef::as_ref)
    }

    /// Every Upgrade that has this workload and is not over.
    pub fn open_upgrades(
        &self,
        kind: WorkloadKind,
        name: &str,
    ) -> impl Iterator<Item = &UpgradeView> {
        self.upgrades.values().map(AsRef::as_ref).filter(move |u| u.is_open() && u.has(kind, name))
    }

    /// The Upgrade that has this workload and is not over.
    pub fn open_upgrade(&self, kind: WorkloadKind, name: &str) -> Option<&UpgradeView> {
        self.upgrades.values().map(AsRef::as_ref).find(|u| u.is_open() && u.has(kind, name))
    }
}

/// Of two policies the one that lets less pass.
pub fn stricter<'v>(
    a: Option<&'v PolicyView>,
    b: Option<&'v PolicyView>,
) -> Option<&'v PolicyView> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.strictness() > a.strictness() { b } else { a }),
        (a, b) => a.or(b),
    }
}

impl PolicyView {
    /// Which of the policies that select a workload holds: the greatest.
    fn precedence(&self) -> ((usize, usize, bool), (Mode, i32)) {
        (self.spec.rank(), self.strictness())
    }

    /// How little it lets pass.
    fn strictness(&self) -> (Mode, i32) {
        (self.spec.mode, self.spec.approvals.required)
    }

    /// Whether the policy is about workloads of this kind with these labels.
    pub fn selects(&self, kind: WorkloadKind, labels: &Labels) -> bool {
        let workloads = &self.spec.workloads;
        self.includes(kind)
            && (workloads.all || workloads.selector.as_ref().is_some_and(|s| s.matches(labels)))
    }

    /// Whether the policy is about this kind at all.
    pub fn includes(&self, kind: WorkloadKind) -> bool {
        let kinds = &self.spec.workloads.kinds;
        kinds.is_empty() || kinds.contains(&kind)
    }
}

impl UpgradeView {
    /// The view of an Upgrade.
    pub fn of(upgrade: &Upgrade) -> Self {
        let namespace = upgrade.metadata.namespace.as_deref().unwrap_or_default();
        let name = upgrade.metadata.name.clone().unwrap_or_default();
        let status = upgrade.status.as_ref();
        Self {
            plan_hash: plan_hash(namespace, &name, &upgrade.spec),
            name,
            uid: upgrade.metadata.uid.clone().unwrap_or_default(),
            phase: status.map(|s| s.phase).unwrap_or_default(),
            message: status.map(|s| s.message.clone()).unwrap_or_default(),
            targets: targets(upgrade).cloned().collect(),
            requester: upgrade.spec.requester.clone(),
            held: upgrade.spec.held,
        }
    }

    /// Whether it is not over.
    pub fn is_open(&self) -> bool {
        !self.phase.is_terminal()
    }

    /// Whether the workload is one of its targets.
    pub fn has(&self, kind: WorkloadKind, name: &str) -> bool {
        self.targets.iter().any(|t| t.kind == kind && t.name == name)
    }
}

/// The targets of all stages of an Upgrade.
pub fn targets(upgrade: &Upgrade) -> impl Iterator<Item = &WorkloadTarget> {
    upgrade.spec.stages.iter().filter_map(|s| s.workloads.as_ref()).flat_map(|w| &w.targets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{labels, ledger, policy, upgrade};

    #[test]
    fn an_event_copies_one_namespace_only() {
        let mut now = Snapshot::new("us");
        now.set_policy(&policy("all", serde_json::json!({"workloads": {"all": true}})));
        for ns in ["a", "b"] {
            now.set_namespace(ns, labels(&[(GOVERNED_LABEL, "true")]));
        }
        let before = now.clone();
        now.set_upgrade(&upgrade("a", "u", "Progressing"));
        now.set_ledger(&ledger("a", &serde_json::json!([])));
        let pointer = |s: &Snapshot, ns: &str| Arc::as_ptr(&s.namespaces[ns]);
        assert_ne!(pointer(&before, "a"), pointer(&now, "a"));
        assert_eq!(pointer(&before, "b"), pointer(&now, "b"));
        assert_eq!(before.upgrades("a").count(), 0, "an older snapshot never changes");
    }

    #[test]
    fn policies_follow_namespace_labels_and_come_and_go() {
        let mut s = Snapshot::new("us");
        s.set_namespace("prod", labels(&[(GOVERNED_LABEL, ""), ("env", "prod")]));
        s.set_namespace("dev", labels(&[(GOVERNED_LABEL, "true")]));
        s.set_namespace("off", labels(&[(GOVERNED_LABEL, "false"), ("env", "prod")]));
        s.set_policy(&policy(
            "prod",
            serde_json::json!({"workloads": {"all": true},
                "namespaceSelector": {"matchLabels": {"env": "prod"}}}),
        ));
        let count = |s: &Snapshot, ns: &str| s.namespace(ns).map(|n| n.policies().count());
        assert_eq!(
            (count(&s, "prod"), count(&s, "dev"), count(&s, "off")),
            (Some(1), Some(0), Some(0))
        );
        s.set_namespace("dev", labels(&[(GOVERNED_LABEL, "true"), ("env", "prod")]));
        assert_eq!(count(&s, "dev"), Some(1));
        s.remove_policy("prod");
        assert_eq!((count(&s, "prod"), count(&s, "dev")), (Some(0), Some(0)));
        s.remove_namespace("dev");
        assert_eq!(count(&s, "dev"), None);
    }

    #[test]
    fn what_arrives_before_its_namespace_is_kept_and_later_forgotten() {
        let mut s = Snapshot::new("us");
        s.set_upgrade(&upgrade("a", "u", "Pending"));
        assert!(s.namespace("a").is_none(), "an Upgrade does not make a namespace known");
        assert_eq!(s.upgrades("a").count(), 1);
        s.remove_upgrade("a", "u");
        assert!(s.is_empty());
    }
}
