//! The rules, each with its name, its text, and its place in the contract.

use std::fmt;

/// A contract that has a conformance suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Contract {
    /// [`Journal`](crate::journal::Journal).
    Journal,
    /// [`Scheduler`](crate::contracts::Scheduler).
    Scheduler,
    /// [`CheckpointStore`](crate::contracts::CheckpointStore).
    Store,
    /// [`JobController`](crate::contracts::JobController).
    Controller,
    /// [`Transport`](crate::contracts::Transport) and the workers behind it.
    Transport,
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Journal => "Journal",
            Self::Scheduler => "Scheduler",
            Self::Store => "CheckpointStore",
            Self::Controller => "JobController",
            Self::Transport => "Transport",
        })
    }
}

macro_rules! rules {
    ($( $contract:ident { $( $rule:ident $id:literal $place:literal, $says:literal; )+ } )+) => {
        /// A requirement of a contract that can be checked from outside.
///
/// The names are stable: a name is never reused for another rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Rule { $( $(
            #[doc = concat!("`", $id, "`: ", $says, ".")]
            $rule,
        )+ )+ }

        impl Rule {
            /// Every rule, contract by contract.
            pub const ALL: &'static [Self] = &[$( $( Self::$rule, )+ )+];

            /// Its name, for people and scripts: `journal.compare-and-set`.
            pub const fn id(self) -> &'static str {
                match self { $( $( Self::$rule => $id, )+ )+ }
            }

            /// The rule as a sentence.
            pub const fn says(self) -> &'static str {
                match self { $( $( Self::$rule => $says, )+ )+ }
            }

            /// The contract that it belongs to.
            pub const fn contract(self) -> Contract {
                match self { $( $( Self::$rule => Contract::$contract, )+ )+ }
            }

            /// The item of this crate whose documentation contains the rule.
            pub const fn written_in(self) -> &'static str {
                match self { $( $( Self::$rule => $place, )+ )+ }
            }
        }
    };
}

rules! {
    Journal {
        JournalStartsEmpty "journal.starts-empty" "journal::Journal::load", "a job that was never written has no record";
        JournalKeepsAll "journal.keeps-all" "journal::Journal", "a record is loaded as it was written, in every field and by every controller";
        JournalDurable "journal.durable" "journal::Journal", "a record whose write was `Ok` survives a crash of everything, whole";
        JournalAtomic "journal.atomic" "journal::Journal", "a reader sees the record before or the record after, at any moment";
        JournalCompareAndSet "journal.compare-and-set" "journal::Journal::write", "a record that is not the next of its run is a conflict, and changes nothing";
        JournalOneWriter "journal.one-writer" "journal::Journal", "of many controllers that write one revision at once, one wins, and the others are told of the conflict";
        JournalNewerRun "journal.newer-run" "journal::Journal", "the first record of a newer run replaces that of an older one, and no later record does";
        JournalFencing "journal.fencing" "journal::Journal", "a record of an older run is a conflict, and changes nothing";
        JournalWriteAgain "journal.write-again" "journal::Journal::write", "writing the same record again is `Ok`, by any controller";
        JournalCancelSafe "journal.cancel-safe" "journal::Journal::write", "after a write that was dropped midway the same record may be written again";
        JournalDamage "journal.damage" "journal::Journal::load", "a record that is not what was written is `Corrupt`, and is never passed over";
        JournalNewerVersion "journal.newer-version" "journal::Journal::load", "a record of a newer version is `NewerVersion`, and is never passed over";
        JournalKeepsDamage "journal.keeps-damage" "journal::Journal", "a record that can't be read is not overwritten";
        JournalJobsApart "journal.jobs-apart" "journal::Journal", "each job has a record of its own, whatever its name";
    }
    Scheduler {
        SchedulerListsAlive "scheduler.lists-alive" "Scheduler::workers_for_job", "every worker of the run that is alive is listed, and no worker of another run or job";
        SchedulerOnlyReads "scheduler.only-reads" "Scheduler::workers_for_job", "asking who is alive changes nothing";
        SchedulerUnknownRun "scheduler.unknown-run" "Scheduler", "stopping a run or job that was never heard of is `Ok`, and it has no workers";
        SchedulerStopAgain "scheduler.stop-again" "Scheduler", "stopping what is already stopped is `Ok`";
        SchedulerFencing "scheduler.fencing" "Scheduler", "with a run given, no worker of another run or job is touched";
        SchedulerEveryRun "scheduler.every-run" "Scheduler", "without a run given, every run of the job is stopped, and no other job";
        SchedulerAsks "scheduler.asks" "Scheduler", "without force a worker is asked to leave, and may";
        SchedulerAskedIsAlive "scheduler.asked-is-alive" "Scheduler", "a worker that was asked to leave is listed for as long as it, or a child of it, runs";
        SchedulerForce "scheduler.force" "Scheduler", "force ends workers that do not cooperate";
        SchedulerForceChildren "scheduler.force-children" "Scheduler", "force ends the children of workers too";
        SchedulerKillVerified "scheduler.kill-verified" "Scheduler::workers_for_job", "a worker is listed until it provably runs no more code";
        SchedulerNeverLeftOut "scheduler.never-left-out" "Scheduler::workers_for_job", "a worker that can't be asked about is listed, or the call is an error";
        SchedulerCancelSafe "scheduler.cancel-safe" "Scheduler", "a stop may be dropped at any point, and the same call made again";
    }
    Store {
        StoreStartsEmpty "store.starts-empty" "contracts::CheckpointStore", "a job that was never published has no checkpoint";
        StoreRunsGrow "store.runs-grow" "contracts::CheckpointStore::open_run", "each opened run is higher than every run that the store has seen";
        StoreOneRunEach "store.one-run-each" "contracts::CheckpointStore::open_run", "a run is given to one controller, also when many ask at once";
        StoreKeepsAll "store.keeps-all" "contracts::CheckpointStore", "a manifest is read as it was published, in every field and by every controller";
        StoreDurable "store.durable" "contracts::CheckpointStore", "a manifest whose publication was `Ok` survives a crash of everything, whole";
        StoreAtomic "store.atomic" "contracts::CheckpointStore", "a reader sees the whole manifest or the one before, at any moment";
        StorePutIfAbsent "store.put-if-absent" "contracts::CheckpointStore::publish", "an epoch is never overwritten: another manifest of it is a conflict";
        StoreOnePublisher "store.one-publisher" "contracts::CheckpointStore::publish", "of two controllers with one run number, one publishes an epoch, and the other is told of the conflict";
        StorePublishAgain "store.publish-again" "contracts::CheckpointStore::publish", "publishing the same manifest again is `Ok`, by any controller";
        StoreStaleEpoch "store.stale-epoch" "contracts::CheckpointStore::publish", "an epoch below the last published one is `StaleEpoch`, and changes nothing";
        StoreFencing "store.fencing" "contracts::CheckpointStore", "once a newer run is opened, every publication by an older one is `Fenced`, for ever";
        StoreHandover "store.handover" "contracts::CheckpointStore", "a manifest whose publication was `Ok` is what the next run starts from, also when both happen at once";
        StoreDamage "store.damage" "contracts::CheckpointStore", "a half-written or damaged manifest is `Damaged`, and is never passed over";
        StoreCancelSafe "store.cancel-safe" "contracts::CheckpointStore", "a call may be dropped midway, and the same call made again";
        StoreJobsApart "store.jobs-apart" "contracts::CheckpointStore", "each job has runs and checkpoints of its own, whatever its name";
    }
    Controller {
        ControllerForeignRun "controller.foreign-run" "JobController", "an event of another run is rejected, and changes nothing";
        ControllerUnknown "controller.unknown" "JobController", "an event of an unknown worker or task, or of the wrong worker, is rejected, and changes nothing";
        ControllerDuplicates "controller.duplicates" "JobController", "a repeated event changes nothing";
        ControllerFutureEpoch "controller.future-epoch" "JobController::handle", "an event of a checkpoint that was never started is rejected, and changes nothing";
        ControllerFinalCompletes "controller.final-completes" "JobController::begin_checkpoint", "a final checkpoint that all have answered is complete, and its manifest holds what they gave";
        ControllerNeedsEveryTask "controller.needs-every-task" "JobController", "a final checkpoint is not published or complete while the state of a task is missing";
        ControllerNeedsDurable "controller.needs-durable" "JobController", "a final checkpoint is not complete, and no commit is ordered, before its manifest is durable";
        ControllerNeedsCommits "controller.needs-commits" "JobController", "a final checkpoint is not complete before every commit is acknowledged";
        ControllerBeginsQuietly "controller.begins-quietly" "JobController", "a command sends nothing itself: `progress` does";
        ControllerIdempotent "controller.idempotent" "JobController", "the same command again sends nothing again to workers that have taken it";
        ControllerSendsAgain "controller.sends-again" "JobController", "the same command again sends again what has failed, and nothing else";
        ControllerErrorOnce "controller.error-once" "JobController::progress", "an order that failed for good is an error of `progress`, and is told once";
        ControllerTellsStore "controller.tells-store" "JobController::progress", "a manifest that can't be made durable is an error of `progress`, told once";
        ControllerIndependence "controller.independence" "JobController", "a worker's order waits for no other worker";
        ControllerCancelSafe "controller.cancel-safe" "JobController::progress", "dropping `progress` again and again does not start work over or lose it";
        ControllerIdle "controller.idle" "JobController::progress", "`progress` stays pending when there is nothing to do";
        ControllerStop "controller.stop" "JobController::begin_stop", "a stop order reaches every worker in its mode, and the tasks' ends are counted";
        ControllerStrongerStop "controller.stronger-stop" "JobController::begin_stop", "a stronger stop replaces a weaker one, and a weaker one changes nothing";
        ControllerNoneAfterStop "controller.none-after-stop" "JobController::begin_stop", "no checkpoint is started after a stop";
        ControllerNoneAfterFinal "controller.none-after-final" "JobController::begin_checkpoint", "no periodic checkpoint is started once the final one was asked for";
        ControllerRelease "controller.release" "JobController::begin_release", "every worker is told that it may leave";
        ControllerFirstFailure "controller.first-failure" "JobController::failure", "a failed task is a failure of the run; the first one stays, and later ones are counted";
        ControllerLostWorker "controller.lost-worker" "JobController::check_health", "a worker that has been silent for too long is lost, and one that speaks is not";
    }
    Transport {
        TransportTakesIn "transport.takes-in" "contracts::Transport", "an order whose sending was `Ok` has been taken in by its worker, which carries it out";
        TransportAnswersAgain "transport.answers-again" "contracts::Order", "a repeated order for a checkpoint that is done is answered again, events included";
        TransportForeignRun "transport.foreign-run" "contracts::Order", "an order of another run is rejected, and changes nothing";
        TransportUnknownWorker "transport.unknown-worker" "contracts::Transport::send", "an order to a worker that the run does not have is an error, and reaches nobody";
        TransportEnded "transport.ended" "contracts::Command", "a worker whose tasks have all ended answers a stop as if it had just stopped them, or says `NotRunning`";
        TransportIndependence "transport.independence" "contracts::Transport", "a worker that does not answer delays no other";
        TransportCancelSafe "transport.cancel-safe" "contracts::Transport::send", "a sending may be dropped at any point, and the order sent again";
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}
