//! The table of edges, the only place where they are defined. After a change,
//! `WINDDOWN_REGENERATE=1 cargo test --test machine generated` regenerates the pages in `docs/`.

use super::{Edge, Force, Graceful, Immediate, Phase, Reason, StepError, StepFailed, SuccessorOf};
use crate::{
    contracts::{JobController, Scheduler},
    machine::{
        AnyStopped, CheckpointStopping, Checkpointed, Completed, Drained, Finishing, Halted, JobContext, Killed,
        Recovering, Running, Stopped, Stopping,
        phases::{
            sealed::{self, Mint},
            work::{self, Walk},
        },
    },
};

machine! {
    phases {
        /// The job runs.
        Running = Running, "Running", "running";
        /// All sources have completed; a final checkpoint lets the job end by itself.
        Finishing = Finishing, "Finishing", "finishing";
        /// A task failed or a worker was lost; the run is cleaned up.
        Recovering = Recovering, "Recovering", "recovering";
        /// A final checkpoint is taken, after which every task finishes.
        CheckpointStopping = CheckpointStopping, "CheckpointStopping", "checkpoint-stopping";
        /// Sources have been ordered to stop; what they have read is processed to the end.
        StoppingGraceful = Stopping<Graceful>, "Stopping<Graceful>", "stopping-graceful";
        /// Every task has been ordered to stop where it is.
        StoppingImmediate = Stopping<Immediate>, "Stopping<Immediate>", "stopping-immediate";
        /// The scheduler kills the workers.
        StoppingForce = Stopping<Force>, "Stopping<Force>", "stopping-force";
        /// Stopped with a complete final checkpoint.
        StoppedCheckpointed = Stopped<Checkpointed>, "Stopped<Checkpointed>", "stopped-checkpointed";
        /// Ended by itself, with a complete final checkpoint.
        StoppedCompleted = Stopped<Completed>, "Stopped<Completed>", "stopped-completed";
        /// Stopped after everything that was read had been processed.
        StoppedDrained = Stopped<Drained>, "Stopped<Drained>", "stopped-drained";
        /// Stopped where the tasks were.
        StoppedHalted = Stopped<Halted>, "Stopped<Halted>", "stopped-halted";
        /// Stopped by killing the workers.
        StoppedKilled = Stopped<Killed>, "Stopped<Killed>", "stopped-killed";
    }
    edges {
        /// What follows [`Running`].
        Running => AfterRunning {
            CheckpointStopping(CheckpointStopping): "a stop request with a checkpoint";
            Graceful(Stopping<Graceful>): "a graceful stop request";
            Immediate(Stopping<Immediate>): "an immediate stop request, or the TTL has expired";
            Force(Stopping<Force>): "a force request, or there is no controller";
            Finishing(Finishing): "all sources have completed";
            Recovering(Recovering): "a task failed or a worker was lost";
        }
        /// What follows [`Finishing`].
        Finishing => AfterFinishing {
            Stopped(Stopped<Completed>): "the final checkpoint is durable and committed, every task has finished, nothing is alive";
            Graceful(Stopping<Graceful>): "no final checkpoint can be taken: the tasks drain";
            Immediate(Stopping<Immediate>): "an immediate stop request, the deadline, or a failure";
            Force(Stopping<Force>): "a force request, a lost worker, or there is no controller";
        }
        /// What follows [`Recovering`].
        Recovering => AfterRecovering {
            Immediate(Stopping<Immediate>): "clean-up before a restart, a controller is attached";
            Force(Stopping<Force>): "clean-up, no controller or a lost worker";
        }
        /// What follows [`CheckpointStopping`].
        CheckpointStopping => AfterCheckpointStopping {
            Stopped(Stopped<Checkpointed>): "the final checkpoint is durable and committed, every task has finished, nothing is alive";
            Immediate(Stopping<Immediate>): "an immediate stop request, or the caller gave the final checkpoint up";
            Force(Stopping<Force>): "a force request, a worker lost for good, or there is no controller";
        }
        /// What follows [`Stopping<Graceful>`](Stopping).
        Stopping<Graceful> => AfterGraceful {
            Stopped(Stopped<Drained>): "every task has finished, nothing is alive";
            Immediate(Stopping<Immediate>): "an immediate stop request";
            Force(Stopping<Force>): "a force request, the deadline, an error, or there is no controller";
        }
        /// What follows [`Stopping<Immediate>`](Stopping).
        Stopping<Immediate> => AfterImmediate {
            Stopped(Stopped<Halted>): "every task has ended, nothing is alive";
            Force(Stopping<Force>): "a force request, the deadline, an error, or there is no controller";
        }
        /// What follows [`Stopping<Force>`](Stopping).
        Stopping<Force> => AfterForce {
            Stopped(Stopped<Killed>): "the scheduler killed the run's workers and lists none";
        }
    }
}
