//! The conformance suites have teeth: for each rule there is an implementation that breaks it, by a
//! mistake that people make, and the suite names that rule and no other.

mod controller;
mod journal;
mod scheduler;
mod store;
mod transport;

use std::{fmt::Debug, time::Duration};

use futures_util::{StreamExt as _, stream};
use winddown::testing::conformance::{Contract, Report, Rule, Verdict};

/// How long one rule may take here: some mistakes are found only by it. The rest take well below a
/// second.
const LIMIT: Duration = Duration::from_secs(10);
/// So many mistakes are tried at a time: most of the time a check waits.
const AT_A_TIME: usize = 8;

/// Each mistake breaks its rule, and no other. Every rule of the contract has a mistake.
async fn assert_found<M: Copy + Debug>(
    contract: Contract,
    rows: &[(M, Rule)],
    right: M,
    check: impl AsyncFn(M) -> Report,
) {
    for rule in Rule::ALL.iter().filter(|rule| rule.contract() == contract) {
        assert!(rows.iter().any(|(_, of)| of == rule), "{rule} has no mistake that breaks it: add a row");
    }
    let report = check(right).await;
    for (rule, verdict) in report.findings() {
        assert_eq!(*verdict, Verdict::Kept, "{rule} without a mistake");
    }
    let tries = rows.iter().map(|(mistake, rule)| {
        let report = check(*mistake);
        async move { (*mistake, *rule, report.await) }
    });
    let mut tries = stream::iter(tries).buffer_unordered(AT_A_TIME);
    let mut wrong = Vec::new();
    while let Some((mistake, rule, report)) = tries.next().await {
        if report.broken() != [rule] {
            wrong.push(format!("{mistake:?} breaks {rule}, but the suite says\n{report}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a user sees of a broken rule.
#[tokio::test(start_paused = true)]
async fn a_broken_rule_is_named_with_what_was_expected_what_came_and_where_to_begin() {
    let report = journal::check(journal::Mistake::AnyLaterRevision).await;
    let told = report.into_result().unwrap_err().to_string();
    for part in [
        "Journal: 1 of 14 rules are broken",
        "BROKEN journal.compare-and-set",
        "a record that is not the next of its run is a conflict, and changes nothing",
        "expected a conflict of revision 7 of run 1 with revision 5 of run 1",
        "got Ok(())",
        "decide with `winddown::journal::may_write`",
        "`winddown::journal::Journal::write`",
    ] {
        assert!(told.contains(part), "expected {part:?} in\n{told}");
    }
}

#[tokio::test]
async fn a_subject_that_panics_or_hangs_breaks_the_rule_and_not_the_suite() {
    let report = journal::check(journal::Mistake::PanicsOnNewerVersion).await;
    assert_eq!(report.broken(), [Rule::JournalNewerVersion]);
    assert!(report.to_string().contains("the subject panicked: no way to read a newer version"), "{report}");
    // Both wait for the limit: at the same time.
    let [hangs, blocks] = [journal::Mistake::HangsOnDamage, journal::Mistake::BlocksOnDamage].map(journal::check);
    let (hangs, blocks) = tokio::join!(hangs, blocks);
    for report in [hangs, blocks] {
        assert_eq!(report.broken(), [Rule::JournalDamage]);
        assert!(report.to_string().contains("expected an answer within 10s"), "{report}");
    }
}

/// What took four minutes when one rule waited for the other. No clock is asked: each check waits
/// until all have begun.
#[tokio::test]
async fn u5_a_subject_that_hangs_in_every_rule_costs_the_limit_of_one() {
    let rules = Rule::ALL.iter().filter(|rule| rule.contract() == Contract::Journal).count();
    let report = journal::check_that_waits_for(rules).await;
    assert_eq!(report.findings().len(), rules);
    let hung = "expected an answer within";
    assert!(!report.to_string().contains(hung), "a check waited for the end of one that had begun before:\n{report}");
    let order = report.findings().iter().map(|(rule, _)| *rule);
    assert!(order.eq(Rule::ALL.iter().copied().filter(|rule| rule.contract() == Contract::Journal)), "{report}");
}

#[tokio::test]
async fn u5_a_scheduler_that_forgets_who_takes_no_notice_is_found_by_a_rule_of_that_name() {
    let report = scheduler::check_forgetful().await;
    assert_eq!(report.broken(), [Rule::SchedulerAskedIsAlive], "{report}");
    assert_eq!(Rule::SchedulerAskedIsAlive.id(), "scheduler.asked-is-alive");
    assert!(report.to_string().contains("it is never forgotten"), "{report}");
}

#[tokio::test]
async fn a_broken_rule_panics_in_assert() {
    let report = journal::check(journal::Mistake::AnyLaterRevision).await;
    let panic = std::panic::catch_unwind(|| report.assert()).unwrap_err();
    assert!(panic.downcast_ref::<String>().unwrap().contains("BROKEN journal.compare-and-set"));
}

#[test]
fn names_are_distinct_and_belong_to_their_contract() {
    let mut ids: Vec<_> = Rule::ALL.iter().map(|rule| rule.id()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), Rule::ALL.len());
    for rule in Rule::ALL {
        let prefix = match rule.contract() {
            Contract::Store => "store.",
            Contract::Controller => "controller.",
            Contract::Scheduler => "scheduler.",
            Contract::Transport => "transport.",
            _ => "journal.",
        };
        assert!(rule.id().starts_with(prefix), "{rule}");
        let contract = rule.contract().to_string();
        let place = rule.written_in().trim_start_matches("contracts::").trim_start_matches("journal::");
        // What a worker does with an order is said of the order.
        let is_of_orders = rule.contract() == Contract::Transport && matches!(place, "Order" | "Command");
        assert!(place.starts_with(&contract) || is_of_orders, "{rule}");
    }
}
