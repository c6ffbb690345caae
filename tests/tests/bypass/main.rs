//! No way around: every row of `docs/bypass.md` tried on the real API server, as somebody with
//! edit rights. A harness of its own, so that the count is printed at the end whatever the order.
//!
//! `cargo test -p upgrade-sandbox --test bypass [-- PART_OF_A_NAME...]`

mod doors;
mod ground;
mod ourselves;
mod pods;
mod races;
mod table;
mod templates;
mod who;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};

/// Rows that are tried at once: most of their time they wait for the control plane.
const AT_ONCE: usize = 4;

/// One row's test.
pub struct Row {
    /// Name of the test; it starts with `row_NN_`.
    pub name: &'static str,
    run: fn() -> BoxFuture<'static, Result<()>>,
}

macro_rules! rows {
    ($($room:ident::$name:ident),* $(,)?) => {
        &[$(Row { name: stringify!($name), run: || Box::pin($room::$name()) }),*]
    };
}

const ROWS: &[Row] = rows![
    templates::row_01_set_image_edit_and_patch,
    templates::row_02_apply_and_server_side_apply_with_force,
    templates::row_03_replace_and_replace_with_force,
    templates::row_04_rollout_undo,
    templates::row_05_rollout_restart_keeps_a_digest,
    pods::row_06_the_template_of_a_replica_set,
    pods::row_07_a_replica_set_to_be_adopted,
    doors::row_08_scaling_an_old_replica_set_up,
    pods::row_09_a_bare_pod_with_the_same_labels,
    doors::row_10_relabelling_pods_and_templates_into_a_selector,
    pods::row_11_the_image_of_a_live_pod,
    pods::row_12_an_ephemeral_container,
    pods::row_13_debug_copies_and_run,
    templates::row_14_scale_and_status_carry_no_image,
    templates::row_15_resize_carries_no_image,
    templates::row_16_delete_and_create,
    doors::row_17_controller_revisions_and_the_current_revision,
    pods::row_18_stateful_sets_daemon_sets_and_the_old_kinds,
    pods::row_19_jobs_and_cron_jobs,
    templates::row_20_init_containers_sidecars_and_added_containers,
    templates::row_21_image_volumes_and_image_drivers,
    templates::row_22_a_digest_cannot_be_dropped,
    templates::row_23_other_spellings,
    templates::row_24_what_a_container_downloads,
    who::row_25_an_operator_is_nobody_special,
    pods::row_26_pods_that_an_unknown_kind_makes,
    pods::row_27_a_mutating_policy_behind_the_approval,
    pods::row_28_forged_owner_references,
    ourselves::row_29_forged_annotations_and_labels,
    ourselves::row_30_status_and_approvals_that_somebody_else_writes,
    ourselves::row_31_a_plan_that_changes_after_its_approval,
    ourselves::row_32_deleting_policies_and_their_kind,
    ourselves::row_33_editing_our_kinds,
    ourselves::row_34_another_version_of_our_kinds,
    ourselves::row_35_the_webhook_configurations,
    ourselves::row_36_the_policies_of_the_api_server,
    ourselves::row_37_our_own_namespace,
    ourselves::row_38_the_label_of_the_namespace,
    ourselves::row_39_labels_that_opt_an_object_out,
    ourselves::row_40_another_namespace,
    who::row_41_impersonation,
    who::row_42_tokens_of_controllers,
    who::row_43_look_alikes_of_controllers,
    who::row_44_mirror_pods,
    races::row_46_abort_and_apply_through_two_replicas,
    races::row_47_an_old_approval,
    races::row_48_two_exceptions,
    races::row_49_a_request_that_is_too_large,
    who::row_50_a_syncer_is_nobody_special,
];

fn main() -> ExitCode {
    // Flags are those of the usual harness; none of them means anything here but this one.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--list") {
        for row in ROWS {
            println!("{}: test", row.name);
        }
        return ExitCode::SUCCESS;
    }
    // A number is the value of such a flag.
    let part = |a: &String| !a.starts_with('-') && a.parse::<u32>().is_err();
    let wanted: Vec<_> = arguments.into_iter().filter(part).collect();
    let chosen: Vec<&Row> = ROWS
        .iter()
        .filter(|r| wanted.is_empty() || wanted.iter().any(|w| r.name.contains(w.as_str())))
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(AT_ONCE + 2)
        .enable_all()
        .build()
        .expect("a runtime");
    let passed = runtime.block_on(run(&chosen));
    // Ends what the rows share before the process does.
    runtime.shutdown_background();
    let table = table::read();
    let mut wrong = table.wrong(ROWS);
    for problem in &wrong {
        println!("docs/bypass.md: {problem}");
    }
    let failed = chosen.len() - passed.len();
    wrong.extend((failed > 0).then(|| format!("{failed} tests failed")));
    println!("\n{}", table.summary(&passed, failed, chosen.len() == ROWS.len()));
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the rows and returns the names of those that passed.
async fn run(chosen: &[&Row]) -> Vec<&'static str> {
    // Without it no row can be tried, so its failure is the whole run's and is told once.
    upgrade_sandbox::scenario::lab().await;
    let running = chosen.iter().map(|row| {
        let (name, test) = (row.name, row.run);
        async move {
            let start = Instant::now();
            // A task of its own, so that a failed assertion ends one row and not all.
            let outcome = match tokio::spawn(test()).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("{error:#}")),
                Err(panic) => Some(panic.to_string()),
            };
            let seconds = start.elapsed().as_secs_f64();
            match &outcome {
                None => println!("test {name} ... ok ({seconds:.1} s)"),
                Some(why) => println!("test {name} ... FAILED ({seconds:.1} s)\n{why}"),
            }
            outcome.is_none().then_some(name)
        }
    });
    let passed: Vec<_> = stream::iter(running).buffer_unordered(AT_ONCE).collect().await;
    passed.into_iter().flatten().collect()
}
