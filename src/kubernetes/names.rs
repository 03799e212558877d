//! The names and labels of worker pods, by which they are found again.

use crate::contracts::{JobId, RunId, WorkerId};

/// The label that holds the job's name, as far as a label can.
pub const JOB_LABEL: &str = "winddown/job";
/// The label that holds the run, a decimal number.
pub const RUN_LABEL: &str = "winddown/run";
/// The label that holds the worker's id, a decimal number.
pub const WORKER_LABEL: &str = "winddown/worker";
/// The label that holds the scheduler's instance, if it has one.
pub const INSTANCE_LABEL: &str = "winddown/instance";
/// The annotation that holds the job's name in full. A pod is a job's only if this says so.
pub const JOB_ANNOTATION: &str = "winddown/job-name";
/// The annotation that distinguishes the attempts to start a pod.
pub const START_ANNOTATION: &str = "winddown/start";

/// The maximum length of a label's value and of a host name.
const LONGEST: usize = 63;

/// A name as a label's value: the name itself if it is valid, otherwise its valid part and a
/// checksum. Two jobs may happen to have the same one; [`JOB_ANNOTATION`] distinguishes them.
pub(super) fn label(name: &str) -> String {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let fits = name.len() <= LONGEST && name.chars().all(inner);
    if fits && end(name.chars().next()) && end(name.chars().last()) {
        return name.to_owned();
    }
    readable(name, LONGEST)
}

/// The selector for the pods of a run, or of all runs of a job.
pub(super) fn selector(instance: Option<&str>, job: &JobId, run: Option<RunId>) -> String {
    let mut text = format!("{JOB_LABEL}={}", label(job.as_str()));
    if let Some(run) = run {
        text = format!("{text},{RUN_LABEL}={}", run.get());
    }
    if let Some(instance) = instance {
        text = format!("{text},{INSTANCE_LABEL}={}", label(instance));
    }
    text
}

/// The name of a worker's pod: the same for every attempt to start it, so that there is at most
/// one.
pub(super) fn pod_name(instance: Option<&str>, job: &JobId, run: RunId, worker: WorkerId) -> String {
    let end = format!("-{}-{}", run.get(), worker.get());
    let name = instance.map_or_else(|| job.as_str().to_owned(), |instance| format!("{instance}-{job}"));
    let most = LONGEST - end.len();
    let fits = name.len() <= most && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    let start = if fits && name.starts_with(|c: char| c.is_ascii_lowercase()) { name } else { readable(&name, most) };
    start + &end
}

/// The part of a name that a DNS label can show, and a checksum of the whole.
fn readable(name: &str, most: usize) -> String {
    let sum = format!("{:08x}", crc32fast::hash(name.as_bytes()));
    let mut text: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .skip_while(|c| !c.is_ascii_lowercase())
        .take(most.saturating_sub(sum.len() + 1))
        .collect();
    if text.is_empty() {
        text.push('x');
    }
    format!("{text}-{sum}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(job: &str, run: u64) -> String {
        pod_name(None, &job.into(), RunId::new(run), WorkerId::new(3))
    }

    #[test]
    fn plain_names_stay_as_they_are() {
        assert_eq!(name("words", 7), "words-7-3");
        assert_eq!(label("Words_1.a"), "Words_1.a");
        let words = "words".into();
        assert_eq!(selector(None, &words, Some(RunId::new(7))), "winddown/job=words,winddown/run=7");
        assert_eq!(selector(Some("a"), &words, None), "winddown/job=words,winddown/instance=a");
        assert_eq!(pod_name(Some("a"), &words, RunId::new(7), WorkerId::new(3)), "a-words-7-3");
    }

    #[test]
    fn any_name_gives_a_valid_one_of_its_own() {
        let jobs = ["", "eu/words", "EU/words", "7up", "-", "ä", "a.b", "x".repeat(300).leak(), "a-"];
        let mut seen = std::collections::HashSet::new();
        for job in jobs {
            let (name, label) = (name(job, u64::MAX), label(job));
            assert!(name.len() <= 63 && label.len() <= 63, "{name} {label}");
            assert!(name.starts_with(|c: char| c.is_ascii_lowercase()), "{name}");
            assert!(name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')), "{name}");
            assert!(label.ends_with(|c: char| c.is_ascii_alphanumeric()), "{label}");
            assert!(seen.insert(name), "{job}");
        }
    }
}
