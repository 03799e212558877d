//! The explorer, in short; and its teeth: collaborators with known mistakes, each of which it
//! finds.

mod mistakes;
use mistakes::{Mistake, Mistaken};
use winddown::testing::explore::{Explorer, OurController, Subject};

/// Every schedule with one deviation, and some thousand random ones with more.
#[test]
fn no_schedule_violates_an_invariant_and_every_edge_is_taken() {
    let report = Explorer::new().schedules(12_000).depth(1).run();
    assert!(report.is_good(), "{report}");
    assert_eq!((report.complete_depth, report.schedules >= 12_000), (1, true));
}

#[test]
fn a_line_is_replayed_and_another_is_refused() {
    assert_eq!(Explorer::new().replay("checkpoint:7=1,9=2").unwrap(), vec![]);
    let error = Explorer::new().replay("checkpoint:7").unwrap_err();
    assert!(error.to_string().contains("checkpoint-give-back"), "{error}");
    assert!(Explorer::new().replay("coffee:").is_err());
}

#[test]
fn the_same_seed_gives_the_same_walk() {
    let run = || Explorer::new().schedules(2_000).depth(0).threads(1).seed(3).run();
    let (one, two) = (run(), run());
    assert_eq!((one.schedules, one.distinct_states), (two.schedules, two.distinct_states));
    assert_eq!((one.edges, one.happened), (two.edges, two.happened));
}

/// The schedule that is found is the shortest of its kind, and leads to the same violation again.
fn finds(mistake: Mistake, invariants: &[&str]) {
    let report = explorer(Mistaken::new(mistake)).run();
    let finding = report.findings.first().unwrap_or_else(|| panic!("{mistake:?} is not found:\n{report}"));
    assert!(invariants.contains(&finding.violation.invariant), "{mistake:?}: {finding}");
    let again = Explorer::of(Mistaken::new(mistake)).replay(&finding.line).unwrap();
    assert_eq!(again.first().map(|again| again.violation.invariant), Some(finding.violation.invariant), "{finding}");
    // It is the mistake, and not the schedule.
    assert_eq!(Explorer::of(OurController).replay(&finding.line).unwrap(), vec![], "{finding}");
}

fn explorer<S: Subject>(subject: S) -> Explorer<S> {
    Explorer::of(subject).schedules(60_000).depth(2).threads(1).stop_early()
}

macro_rules! finds {
    ($($name:ident: $mistake:ident violates $($invariant:literal)|+;)+) => { $(
        #[test]
        fn $name() {
            finds(Mistake::$mistake, &[$($invariant),+]);
        }
    )+ };
}

finds! {
    i2_finds_stopped_before_the_reap: StoppedBeforeTheReap violates "I2";
    i2_finds_a_release_that_believes_ok: ReleaseBelievesOk violates "I2";
    i2_b1_finds_a_start_that_enters_after_the_list: StartEntersAtItsEnd violates "I2";
    i2_b2_finds_a_list_that_takes_unknown_for_gone: UnknownIsGone violates "I2";
    i2_finds_a_worker_between_witness_and_step: AnswersFromMemory violates "I2";
    i3_finds_a_flag_forgotten_on_retry: FlagForgottenOnRetry violates "I3";
    i3_finds_evidence_before_the_commit: EvidenceBeforeCommit violates "I3";
    i3_finds_a_commit_before_the_publication: CommitBeforePublish violates "I3";
    i3_finds_a_commit_that_was_never_asked_for: CommitNeverAskedFor violates "I3";
    i3_finds_a_commit_that_only_those_with_data_are_asked_for: OnlyThoseWithDataCommit violates "I3";
    i3_finds_a_second_final_epoch_after_a_crash: SecondFinalEpoch violates "I3" | "I7";
    i3_finds_a_failure_taken_for_a_finish: FailureTakenForFinish violates "I3" | "I5";
    i4_finds_a_record_that_forgets_the_request: RecordForgetsRequest violates "I4";
    i5_finds_a_lost_failure: LostFailure violates "I5";
    i5_finds_a_stop_order_after_its_deadline: StopAfterDeadline violates "I5" | "I7";
    i6_finds_a_weaker_request_that_overwrites_a_stronger: WeakerRequestWins violates "I6";
    i7_finds_a_record_of_another_job: RecordOfAnotherJob violates "I7";
    i7_finds_a_journal_written_after_the_effect: JournalAfterEffect violates "I7";
    i9_finds_orders_that_wait_for_one_another: OrdersOneByOne violates "I9";
    i11_finds_another_runs_event_accepted: ForeignAccepted violates "I3" | "I2";
    i11_finds_a_kill_of_every_run: KillsEveryRun violates "I11";
}
