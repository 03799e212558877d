//! Pods: made from the user's template, and read for what they prove.

use k8s_openapi::{
    api::core::v1::{Container, ContainerState, ContainerStatus, EnvVar, Pod, PodStatus, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::{
    error::TemplateError,
    names::{INSTANCE_LABEL, JOB_ANNOTATION, JOB_LABEL, RUN_LABEL, START_ANNOTATION, WORKER_LABEL, label, pod_name},
};
use crate::{
    contracts::{JobId, RunId, WorkerId},
    worker_env::WorkerEnv,
};

/// A template that worker pods can be made from.
pub(super) fn check(template: &PodTemplateSpec) -> Result<(), TemplateError> {
    let wrong = |expected, got: &str| Err(TemplateError { expected, got: got.to_owned() });
    let Some(spec) = &template.spec else { return wrong("a `spec`", "none") };
    if spec.containers.is_empty() {
        return wrong("at least one container", "none");
    }
    match spec.restart_policy.as_deref() {
        // A container that is started anew would be a worker of a run that has gone on without it.
        None | Some("Never") => Ok(()),
        Some(other) => wrong("`restartPolicy: Never`", &format!("`{other}`")),
    }
}

/// What the pods of a scheduler have in common.
#[derive(Clone, Debug, Default)]
pub(super) struct Common {
    pub(super) instance: Option<String>,
    pub(super) owner: Option<OwnerReference>,
}

/// The pod of a worker.
pub(super) fn make(template: PodTemplateSpec, env: &WorkerEnv, common: &Common, start: &str) -> Pod {
    let WorkerEnv { job, run, worker, .. } = env;
    let mut metadata = template.metadata.unwrap_or_default();
    metadata.name = Some(pod_name(common.instance.as_deref(), job, *run, *worker));
    metadata.generate_name = None;
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(JOB_LABEL.to_owned(), label(job.as_str()));
    labels.insert(RUN_LABEL.to_owned(), run.get().to_string());
    labels.insert(WORKER_LABEL.to_owned(), worker.get().to_string());
    if let Some(instance) = &common.instance {
        labels.insert(INSTANCE_LABEL.to_owned(), label(instance));
    }
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(JOB_ANNOTATION.to_owned(), job.as_str().to_owned());
    annotations.insert(START_ANNOTATION.to_owned(), start.to_owned());
    metadata.owner_references.get_or_insert_default().extend(common.owner.clone());
    let mut spec = template.spec.unwrap_or_default();
    spec.restart_policy = Some("Never".to_owned());
    for container in &mut spec.containers {
        let set = container.env.get_or_insert_default();
        for (name, value) in env.variables() {
            set.retain(|variable| variable.name != name);
            set.push(EnvVar { name: name.to_owned(), value: Some(value), value_from: None });
        }
    }
    Pod { metadata, spec: Some(spec), status: None }
}

/// Whose a pod is, for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// No worker of the job's.
    Another,
    Worker(RunId, WorkerId),
    /// The job's, and this label does not say which worker it is.
    Unreadable(&'static str),
}

impl Owner {
    /// The worker, where that is known.
    pub(super) fn worker(self) -> Option<(RunId, WorkerId)> {
        match self {
            Self::Worker(run, worker) => Some((run, worker)),
            Self::Another | Self::Unreadable(_) => None,
        }
    }
}

pub(super) fn owner(pod: &Pod, job: &JobId) -> Owner {
    let ObjectMeta { labels, annotations, .. } = &pod.metadata;
    if annotations.as_ref().and_then(|annotations| annotations.get(JOB_ANNOTATION)).is_none_or(|of| of != job.as_str())
    {
        return Owner::Another;
    }
    let number =
        |label| labels.as_ref().and_then(|labels| labels.get(label)?.parse().ok()).ok_or(Owner::Unreadable(label));
    match (number(RUN_LABEL), number(WORKER_LABEL)) {
        (Ok(run), Ok(worker)) => Owner::Worker(RunId::new(run), WorkerId::new(worker)),
        (Err(unreadable), _) | (_, Err(unreadable)) => unreadable,
    }
}

pub(super) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub(super) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub(super) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The node that the pod was given to, if it was.
pub(super) fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Whether it may run code, now or later. What is terminating is alive, whatever it says of itself.
pub(super) fn is_alive(pod: &Pod) -> bool {
    is_terminating(pod) || node(pod).is_none() || !containers_have_ended(pod)
}

/// Whether nothing of the pod runs, on the word of its node: every container was seen to end. A phase alone proves nothing, since others than
/// the node set it (for nodes that are lost). A pod that no node was given has never run.
pub(super) fn host_says_ended(pod: &Pod) -> bool {
    node(pod).is_none() || containers_have_ended(pod)
}

fn containers_have_ended(pod: &Pod) -> bool {
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { return false };
    let PodStatus { container_statuses, init_container_statuses, ephemeral_container_statuses, .. } = status;
    let has = |statuses: &Option<Vec<ContainerStatus>>, name: &str, is: fn(&ContainerState) -> bool| {
        let status = statuses.iter().flatten().find(|status| status.name == name);
        status.is_some_and(|status| status.state.as_ref().is_some_and(is))
    };
    let (ended, running) =
        (|state: &ContainerState| state.terminated.is_some(), |state: &ContainerState| state.running.is_some());
    // A sidecar is an init container that stays: it has ended when that was seen, as the others have.
    let before = |container: &Container| match container.restart_policy.as_deref() {
        Some("Always") => has(init_container_statuses, &container.name, ended),
        _ => !has(init_container_statuses, &container.name, running),
    };
    spec.containers.iter().all(|container| has(container_statuses, &container.name, ended))
        && spec.init_containers.iter().flatten().all(before)
        // Added to the pod by `kubectl debug`: it may do anything, in the worker's namespaces and volumes.
        && spec.ephemeral_containers.iter().flatten().all(|container| has(ephemeral_container_statuses, &container.name, ended))
}

/// The exit code of the first container that has ended with one other than 0, else 0 if any has ended.
pub(super) fn exit_code(pod: &Pod) -> Option<i32> {
    let statuses = pod.status.as_ref()?.container_statuses.as_deref()?;
    let codes = statuses.iter().filter_map(|status| Some(status.state.as_ref()?.terminated.as_ref()?.exit_code));
    codes.reduce(|first, next| if first == 0 { next } else { first })
}

/// Why it is still there, for people.
pub(super) fn describe(pod: &Pod) -> String {
    let held = pod.metadata.finalizers.as_ref().filter(|finalizers| !finalizers.is_empty());
    let why = match (held, node(pod)) {
        (Some(finalizers), _) => format!(", held by the finalizers {}", finalizers.join(", ")),
        (None, Some(_)) if !containers_have_ended(pod) => {
            ", its node has not said that the containers have ended".to_owned()
        }
        _ => String::new(),
    };
    let place = node(pod).map_or_else(|| "no node yet".to_owned(), |node| format!("node `{node}`"));
    let terminating = if is_terminating(pod) { ", terminating" } else { "" };
    format!("`{}` on {place}{terminating}{why}", name(pod))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::contracts::OpenRun;

    fn pod(node: Option<&str>, states: &Value) -> Pod {
        let names = ["work", "side"];
        let statuses: Vec<Value> = states.as_array().unwrap().iter().zip(names).map(|(state, name)| {
            json!({ "name": name, "ready": false, "restartCount": 0, "image": "i", "imageID": "i", "state": state })
        }).collect();
        serde_json::from_value(json!({
            "metadata": { "name": "p" },
            "spec": { "nodeName": node, "containers": [{ "name": "work" }, { "name": "side" }] },
            "status": { "phase": "Failed", "containerStatuses": statuses },
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_has_ended_when_its_node_saw_every_container_end_and_not_when_a_phase_says_so() {
        let (ended, running) = (json!({ "terminated": { "exitCode": 3 } }), json!({ "running": {} }));
        assert!(host_says_ended(&pod(Some("n"), &json!([ended, ended]))));
        assert_eq!(exit_code(&pod(Some("n"), &json!([{ "terminated": { "exitCode": 0 } }, ended]))), Some(3));
        for states in [json!([]), json!([ended]), json!([ended, running]), json!([ended, { "waiting": {} }])] {
            assert!(!host_says_ended(&pod(Some("n"), &states)), "{states}");
            assert!(is_alive(&pod(Some("n"), &states)));
        }
        assert!(host_says_ended(&pod(None, &json!([]))), "it was never given to a node");
        assert!(is_alive(&pod(None, &json!([]))), "it may be given to one later");
        let mut terminating = pod(Some("n"), &json!([ended, ended]));
        assert!(!is_alive(&terminating));
        terminating.metadata.deletion_timestamp = Some(k8s_openapi::jiff::Timestamp::UNIX_EPOCH.into());
        assert!(is_alive(&terminating), "a terminating pod is alive");
    }

    #[test]
    fn i2_b15_what_was_added_to_a_pod_keeps_it_alive_until_it_was_seen_to_end() {
        let (ended, running) = (json!({ "terminated": { "exitCode": 0 } }), json!({ "running": {} }));
        let mut whole = serde_json::to_value(pod(Some("n"), &json!([ended, ended]))).unwrap();
        let status = |name: &str, state: &Value| json!([{ "name": name, "ready": false, "restartCount": 0, "image": "i", "imageID": "i", "state": state }]);
        whole["spec"]["ephemeralContainers"] = json!([{ "name": "debug" }]);
        whole["spec"]["initContainers"] = json!([{ "name": "proxy", "restartPolicy": "Always" }]);
        for (debug, proxy, is_over) in [
            (status("debug", &ended), status("proxy", &ended), true),
            (status("debug", &running), status("proxy", &ended), false),
            (status("debug", &ended), status("proxy", &running), false),
            // Nobody has said anything of it.
            (json!([]), status("proxy", &ended), false),
            (status("debug", &ended), json!([]), false),
        ] {
            whole["status"]["ephemeralContainerStatuses"] = debug;
            whole["status"]["initContainerStatuses"] = proxy;
            let pod: Pod = serde_json::from_value(whole.clone()).unwrap();
            assert_eq!((host_says_ended(&pod), is_alive(&pod)), (is_over, !is_over), "{:?}", pod.status);
        }
    }

    #[test]
    fn i2_b2_a_pod_whose_labels_were_changed_is_not_nobody() {
        let env = WorkerEnv::new(&OpenRun::without_store("words", RunId::new(7)), WorkerId::new(3), "");
        for label in [RUN_LABEL, WORKER_LABEL] {
            let mut pod = make(PodTemplateSpec::default(), &env, &Common::default(), "s");
            pod.metadata.labels.as_mut().unwrap().insert(label.to_owned(), "x".to_owned());
            assert_eq!(owner(&pod, &"words".into()), Owner::Unreadable(label));
            assert_eq!(owner(&pod, &"other".into()), Owner::Another);
        }
    }

    #[test]
    fn a_pod_carries_what_the_worker_is_told_over_what_the_template_says() {
        let template: PodTemplateSpec = serde_json::from_value(json!({
            "metadata": { "labels": { "team": "a" } },
            "spec": { "containers": [{ "name": "work", "env": [
                { "name": "WINDDOWN_RUN", "value": "1" }, { "name": "RUST_LOG", "value": "info" },
            ] }] },
        }))
        .unwrap();
        let env = WorkerEnv::new(&OpenRun::without_store("eu/words", RunId::new(7)), WorkerId::new(3), "http://c:1");
        let pod = make(template, &env, &Common::default(), "s");
        assert_eq!(owner(&pod, &"eu/words".into()), Owner::Worker(RunId::new(7), WorkerId::new(3)));
        assert_eq!(owner(&pod, &"words".into()), Owner::Another);
        assert_eq!(pod.metadata.labels.unwrap()["team"], "a");
        let set = pod.spec.unwrap().containers.remove(0).env.unwrap();
        let value = |name| set.iter().filter(|v| v.name == name).filter_map(|v| v.value.as_deref()).collect::<Vec<_>>();
        assert_eq!(value("WINDDOWN_RUN"), ["7"]);
        assert_eq!([value("RUST_LOG"), value("WINDDOWN_JOB")], [["info"], ["eu/words"]]);
    }

    #[test]
    fn a_template_that_would_start_a_worker_anew_is_refused() {
        let template = |spec: Value| serde_json::from_value(json!({ "spec": spec })).unwrap();
        assert!(check(&template(json!({ "containers": [{ "name": "work" }] }))).is_ok());
        let error = check(&template(json!({ "containers": [{ "name": "work" }], "restartPolicy": "Always" })));
        assert_eq!(error.unwrap_err().to_string(), "expected a pod template with `restartPolicy: Never`, got `Always`");
    }
}
