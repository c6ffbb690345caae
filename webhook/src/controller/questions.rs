//! Questions to the world outside the API server: each is asked once, beside the rounds, and its
//! answer is a reason for the next one.

use super::watches::Context;
use crate::questions::answer;
use kube::ResourceExt;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::task::AbortOnDropHandle;
use upgrade_core::api::Upgrade;
use upgrade_core::engine::questions::{Answer, Answers, Key, Question};

/// What was asked, by the Upgrade's `metadata.uid`.
#[derive(Clone, Default)]
pub struct Asked(Arc<Mutex<HashMap<String, BTreeMap<Key, Asking>>>>);

enum Asking {
    Pending { _task: AbortOnDropHandle<()> },
    Done(Answer),
}

impl Asked {
    /// The answers that have come.
    pub fn answers(&self, uid: &str) -> Answers {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = all.get(uid).into_iter().flatten();
        asked
            .filter_map(|(key, asking)| match asking {
                Asking::Done(answer) => Some((key.clone(), answer.clone())),
                Asking::Pending { .. } => None,
            })
            .collect()
    }

    /// Ends what is under way for an Upgrade, and drops its answers.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// An answer to a question that nobody wants any more is dropped.
    fn note(&self, uid: &str, key: &str, answer: Answer) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asking) = all.get_mut(uid).and_then(|asked| asked.get_mut(key)) {
            *asking = Asking::Done(answer);
        }
    }
}

/// Asks what is new, and forgets what this round did not ask for.
pub fn ask(context: &Context, upgrade: &Upgrade, questions: Vec<(Key, Question)>) {
    let uid = upgrade.uid().unwrap_or_default();
    let namespace = upgrade.namespace().unwrap_or_default();
    let mut all = context.asked.0.lock().unwrap_or_else(PoisonError::into_inner);
    if questions.is_empty() {
        all.remove(&uid);
        return;
    }
    let asked = all.entry(uid.clone()).or_default();
    asked.retain(|key, _| questions.iter().any(|(k, _)| k == key));
    for (key, question) in questions {
        if asked.contains_key(&key) {
            continue;
        }
        let wake = context.waker(&namespace, &upgrade.name_any());
        let (answers, client, namespace) =
            (context.asked.clone(), context.client.clone(), namespace.clone());
        let (uid, name) = (uid.clone(), key.clone());
        let task = tokio::spawn(async move {
            let result = answer(&client, &namespace, question).await;
            answers.note(&uid, &name, Answer { at: crate::clock::now(), result });
            wake();
        });
        asked.insert(key, Asking::Pending { _task: AbortOnDropHandle::new(task) });
    }
}
