//! `docs/operations.md` names every limit and the default worst cases.

use winddown::{Limits, PhaseKind, drive::OnSpentCheckpoint};

const DOCS: &str = include_str!("../../docs/operations.md");

#[test]
fn every_limit_is_explained() {
    let limits = serde_json::to_value(Limits::default()).unwrap();
    for limit in limits.as_object().unwrap().keys() {
        let rows = DOCS.lines().filter(|line| line.starts_with(&format!("| `{limit}` |"))).count();
        assert_eq!(rows, 1, "docs/operations.md has one row for `{limit}` in section 3");
    }
}

#[test]
fn the_default_worst_cases_are_the_true_ones() {
    for (row, phase) in [
        ("| `Stopping<Force>` |", PhaseKind::StoppingForce),
        ("| `Stopping<Graceful>`, `Stopping<Immediate>` |", PhaseKind::StoppingGraceful),
        ("| `Recovering` |", PhaseKind::Recovering),
        ("| `CheckpointStopping` |", PhaseKind::CheckpointStopping),
        ("| `Finishing` |", PhaseKind::Finishing),
        ("| `Running` |", PhaseKind::Running),
    ] {
        let worst = Limits::default().worst_case(phase, OnSpentCheckpoint::Escalate).unwrap();
        let stated = DOCS.lines().find(|line| line.starts_with(row)).unwrap();
        let expected = format!("| {} |", humantime::format_duration(worst));
        assert!(stated.ends_with(&expected), "{stated}\nshould end with {expected}");
    }
}
