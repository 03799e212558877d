// What a journal has is a claim, and only a job's context writes one.
use winddown::{PhaseKind, RunId, journal::PhaseRecord};

fn by_hand() -> PhaseRecord {
    PhaseRecord { job: "words".into(), run: RunId::new(1), phase: PhaseKind::StoppedCheckpointed }
}

fn by_changing(mut record: PhaseRecord) -> PhaseRecord {
    record.phase = PhaseKind::StoppedCheckpointed;
    record
}

fn main() {}
