use std::{fs, path::Path};

use metrics_exporter_prometheus::PrometheusBuilder;

use super::*;
use crate::{
    contracts::{Detached, OpenRun, RunId},
    drive::{Policy, drive},
    testing::scripted::{SchedulerAnswer, ScriptedScheduler},
};

/// Stops a job by force, and returns what an exporter would say then.
fn measured(answer: SchedulerAnswer) -> String {
    let exporter = PrometheusBuilder::new().build_recorder();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    ::metrics::with_local_recorder(&exporter, || {
        describe();
        runtime.block_on(async {
            let scheduler = ScriptedScheduler::new([1]);
            scheduler.always(answer);
            let open = OpenRun::without_store("measured", RunId::new(1));
            let (mut job, running) = JobContext::builder(&open).simulated().build(Detached, scheduler).unwrap();
            follow(&job);
            let _ = drive(running, &mut job, &Policy::escalate()).await;
            drop(job);
            tokio::time::sleep(Duration::from_secs(5)).await;
        });
    });
    exporter.handle().render()
}

#[test]
fn a_stop_is_counted_by_evidence_and_reason() {
    let text = measured(SchedulerAnswer::Obeys);
    assert!(text.contains(r#"winddown_stops_total{evidence="stopped-killed",reason="no-controller"} 1"#), "{text}");
    assert!(text.contains(r#"winddown_phase_duration_seconds_count{phase="stopping-force"} 1"#), "{text}");
    assert!(text.contains(r#"winddown_jobs{phase="stopped-killed"} 0"#), "a job that is gone is in no phase: {text}");
}

#[test]
fn a_stop_that_is_stuck_counts_its_retries_and_who_holds_it_up() {
    let text = measured(SchedulerAnswer::Unavailable);
    assert!(text.contains("winddown_retries_total 20"), "{text}");
    let held = text.lines().find(|line| line.starts_with(r#"winddown_held_up_seconds_total{by="scheduler"}"#));
    let seconds: u64 = held.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap();
    assert!(seconds > 60, "{text}");
    assert!(!text.contains("winddown_stops_total{"), "{text}");
}

#[test]
fn every_metric_is_described_and_every_name_in_deploy_exists() {
    let page = include_str!("../metrics.rs");
    for name in NAMES {
        assert!(page.contains(&format!("//! | `{name}` |")), "{name} is not in the table of the module");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/metrics");
    // The published package does not have it.
    let Ok(files) = fs::read_dir(root) else { return };
    let mut used = std::collections::BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        for (at, _) in text.match_indices("winddown_") {
            let name = text[at..].split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
            let name = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(NAMES.contains(&name), "deploy/metrics names {name}, which is no metric");
            used.insert(name.to_owned());
        }
    }
    assert_eq!(used.len(), NAMES.len(), "the dashboard shows every metric, got {used:?}");
}
