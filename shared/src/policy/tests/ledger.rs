use crate::policy::decide;
use crate::policy::review::{Operation, Subject};
use crate::policy::testing::{US, outcome, review, shop};
use jiff::Timestamp;

#[test]
fn the_ledger_is_the_controllers_alone() {
    let collector = "system:serviceaccount:kube-system:namespace-controller";
    let rows = [
        ("alice", Operation::Create, "ControllerOnly"),
        ("system:admin", Operation::Update, "ControllerOnly"),
        ("alice", Operation::Delete, "ControllerOnly"),
        (US, Operation::Create, "Allow"),
        (US, Operation::Update, "Allow"),
        (collector, Operation::Delete, "Allow"),
        (collector, Operation::Update, "ControllerOnly"),
    ];
    for (user, operation, expected) in rows {
        let r = review(user, operation, "", Subject::Ledger);
        assert_eq!(
            outcome(&decide(&shop(), &r, Timestamp::UNIX_EPOCH)),
            expected,
            "{user} {operation:?}"
        );
    }
    let other = review("alice", Operation::Update, "", Subject::Other);
    assert_eq!(outcome(&decide(&shop(), &other, Timestamp::UNIX_EPOCH)), "Allow");
}
