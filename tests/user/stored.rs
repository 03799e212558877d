//! What one stores or sends is written down and read again; a phase never is.

use winddown::{
    JobContext, JobId, OpenRun, PhaseKind, Policy, Role, RunId, Topology, WorkerId, drive,
    testing::scripted::ScriptedScheduler,
};

use super::topology;

fn round_trip<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) -> String {
    let text = serde_json::to_string(value).unwrap();
    assert_eq!(serde_json::from_str::<T>(&text).unwrap(), *value, "{text}");
    text
}

#[test]
fn u12_a_job_is_named_by_a_string_too() {
    let name = format!("words-{}", 7);
    assert_eq!(JobId::from(name.clone()), JobId::from(name.as_str()));
}

#[test]
fn u12_a_phase_is_written_by_its_tag_and_read_again() {
    for kind in PhaseKind::ALL {
        assert_eq!(round_trip(kind), format!("\"{}\"", kind.tag()));
        assert_eq!(kind.tag().parse(), Ok(*kind));
    }
    let error = "Stopped".parse::<PhaseKind>().unwrap_err().to_string();
    assert!(error.contains("got `Stopped`") && error.contains("docs/transitions.md"), "{error}");
}

#[test]
fn u12_a_topology_is_read_with_every_check_that_building_makes() {
    let topology = Topology::builder()
        .operator("source", Role::Source, [WorkerId::new(2), WorkerId::new(1)])
        .operator("sink", Role::Inner, [WorkerId::new(1)])
        .build()
        .unwrap();
    let text = round_trip(&topology);
    assert!(text.contains(r#"{"name":"source","role":"source","placement":[2,1]}"#), "{text}");
    let twice = text.replace("\"sink\"", "\"source\"");
    let error = serde_json::from_str::<Topology>(&twice).unwrap_err().to_string();
    assert!(error.contains("expected operator names to be distinct"), "{error}");
    assert!(serde_json::from_str::<Topology>(r#"{"operators":[]}"#).is_err());
}

#[tokio::test(start_paused = true)]
async fn u12_progress_and_receipt_are_reports_that_can_be_sent() {
    let controller = winddown::testing::scripted::ScriptedController::new(2);
    let (mut job, running) = JobContext::builder(&OpenRun::without_store("words", RunId::new(7)))
        .simulated()
        .build(controller, ScriptedScheduler::new([1, 2]))
        .unwrap();
    let stopping = running.stop_gracefully(&mut job).unwrap();
    tokio::time::advance(std::time::Duration::from_millis(2_500)).await;
    let progress = round_trip(&job.progress_now().report());
    for part in [r#""phase":"stopping-graceful""#, r#""kind":"graceful-request""#, r#""elapsed":"2s 500ms""#] {
        assert!(progress.contains(part), "expected {part} in {progress}");
    }
    let receipt = drive(stopping, &mut job, &Policy::escalate()).await.unwrap();
    let report = receipt.report();
    let text = round_trip(&report);
    for part in [r#""job":"words""#, r#""run":7"#, r#""stopped":"stopped-killed""#, r#""kind":"deadline""#] {
        assert!(text.contains(part), "expected {part} in {text}");
    }
    assert_eq!(report.legs.len(), receipt.legs().len());
    assert_eq!(topology(1), serde_json::from_str(&serde_json::to_string(&topology(1)).unwrap()).unwrap());
}
