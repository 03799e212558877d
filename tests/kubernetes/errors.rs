//! What the API server refuses, and why, said for what it is.

use k8s_openapi::{
    api::{
        core::v1::{LimitRange, PodTemplateSpec, ResourceQuota},
        rbac::v1::{PolicyRule, Role, RoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;
use tokio::time::Instant;
use winddown::{
    Scheduler,
    kubernetes::{LeaseCandidate, StartError, Trouble, client},
};

use crate::cluster::{Act, Cluster, RUN, Tap, env_of, job, ms, shell, workers};

fn trouble(error: &StartError) -> Trouble {
    let StartError::Api(error) = error else { panic!("{error}") };
    error.trouble
}

/// Grants the role's rules to the user `controller`.
async fn grant(cluster: &Cluster, rules: &[PolicyRule]) {
    let role = Role {
        metadata: ObjectMeta { name: Some("r".to_owned()), ..ObjectMeta::default() },
        rules: Some(rules.to_vec()),
    };
    let api = Api::<Role>::namespaced(cluster.admin.clone(), &cluster.namespace);
    api.patch("r", &PatchParams::apply("test").force(), &Patch::Apply(&role)).await.unwrap();
}

/// It takes a moment until a role is known to the authorizer.
async fn granted(cluster: &Cluster, what: &str, is_so: impl AsyncFn() -> bool) {
    cluster.until(what, is_so).await;
}

#[tokio::test]
async fn without_a_role_every_error_names_verb_resource_and_namespace() {
    let Some(cluster) = Cluster::get().await else { return };
    let scheduler = cluster.builder(client(cluster.user("stranger")).unwrap()).build();
    let error = scheduler.start(env_of(RUN, 1), shell("exit")).await.unwrap_err();
    assert_eq!((trouble(&error), error.is_retryable()), (Trouble::Forbidden, false));
    let expected =
        format!("can't create pods `words-7-1` in namespace `{}`: the role does not allow it", cluster.namespace);
    assert!(error.to_string().starts_with(&expected), "{error}");
    for error in [
        scheduler.stop_workers(&job(), Some(RUN), true).await.unwrap_err(),
        scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap_err(),
    ] {
        assert!(!error.is_retryable(), "{error}");
        let expected = format!("can't list pods in namespace `{}`: the role does not allow it", cluster.namespace);
        assert!(error.to_string().contains(&expected), "{error}");
    }
    cluster.end().await;
}

/// The whole life of a job and a lease, with a start whose answer is lost.
async fn all_that_is_done(cluster: &Cluster) -> Result<(), Box<dyn std::error::Error>> {
    let mut first = true;
    let tap = Tap::on(cluster.user("controller"), move |method, path| {
        let lose = method == "POST" && path.contains("/pods") && std::mem::take(&mut first);
        if lose { Act::Lose } else { Act::Pass }
    });
    let lease = LeaseCandidate::new(tap.client(), &cluster.namespace, "l", "test").lasts(ms(2000)).acquire().await?;
    tokio::time::sleep(ms(700)).await;
    let scheduler = cluster.builder(tap.client()).leadership(lease.clone()).build();
    scheduler.start(env_of(RUN, 1), shell("exit")).await?;
    // Held, so that the stop has to watch.
    cluster.patch("words-7-1", json!({ "metadata": { "finalizers": ["example.com/hold"] } })).await;
    let job = job();
    let (stopped, ()) = tokio::join!(scheduler.stop_workers(&job, Some(RUN), true), async {
        if scheduler.workers_for_job(&job, Some(RUN)).await.is_ok() {
            let wait = async || cluster.is_terminating("words-7-1").await || tap.asked("watch=true") > 0;
            let _ = tokio::time::timeout(ms(2000), cluster.until("the watch", wait)).await;
            tokio::time::sleep(ms(200)).await;
        }
        cluster.patch("words-7-1", json!({ "metadata": { "finalizers": null } })).await;
    });
    stopped?;
    // It was renewed meanwhile, or it is lost by now.
    tokio::time::sleep(ms(2000)).await;
    lease.check()?;
    lease.release().await?;
    Ok(())
}

#[tokio::test]
async fn the_least_role_suffices_and_no_verb_of_it_can_be_spared() {
    let Some(cluster) = Cluster::get().await else { return };
    let text = include_str!("../../deploy/kubernetes/role.yaml");
    let rules = serde_saphyr::from_str::<Role>(text).unwrap().rules.unwrap();
    grant(&cluster, &rules).await;
    cluster
        .create::<RoleBinding>(json!({
            "metadata": { "name": "b" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "controller" }],
        }))
        .await;
    granted(&cluster, "the role", async || all_that_is_done(&cluster).await.is_ok()).await;
    for (rule, verb) in rules.iter().enumerate().flat_map(|(at, rule)| rule.verbs.iter().map(move |verb| (at, verb))) {
        let mut fewer = rules.clone();
        fewer[rule].verbs.retain(|it| it != verb);
        grant(&cluster, &fewer).await;
        let resource = &rules[rule].resources.as_ref().unwrap()[0];
        granted(&cluster, &format!("that {verb} {resource} is missed"), async || {
            // What the last attempt has left is none of the next one's business.
            let leases =
                Api::<k8s_openapi::api::coordination::v1::Lease>::namespaced(cluster.admin.clone(), &cluster.namespace);
            let _ = leases.delete("l", &DeleteParams::default()).await;
            let _ = cluster.pods().delete("words-7-1", &DeleteParams::default().grace_period(0)).await;
            let Err(error) = all_that_is_done(&cluster).await else { return false };
            println!("without {verb} {resource}: {error}");
            // A lease that can't be renewed is lost; of the others the error speaks itself.
            verb == "update" || error.to_string().contains(&format!("can't {verb} {resource}"))
        })
        .await;
        let _ = cluster.pods().delete("words-7-1", &DeleteParams::default().grace_period(0)).await;
    }
    cluster.end().await;
}

#[tokio::test]
async fn a_quota_that_is_used_up_is_told_apart_from_a_role() {
    let Some(cluster) = Cluster::get().await else { return };
    let scheduler = cluster.scheduler();
    cluster
        .create::<ResourceQuota>(json!({ "metadata": { "name": "few" }, "spec": { "hard": { "pods": "1" } } }))
        .await;
    // What the quota controller would do, which is not here.
    let quotas = Api::<ResourceQuota>::namespaced(cluster.admin.clone(), &cluster.namespace);
    let status = json!({ "status": { "hard": { "pods": "1" }, "used": { "pods": "0" } } });
    quotas.patch_status("few", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    // The admission plugin reads quotas from a cache, so the first few may still pass.
    let mut refused = None;
    for number in 1..=200 {
        match scheduler.start(env_of(RUN, number), shell("exit")).await {
            Ok(_) => tokio::time::sleep(ms(50)).await,
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let error = refused.expect("the quota is never seen");
    assert_eq!((trouble(&error), error.is_retryable()), (Trouble::Quota, true), "{error}");
    assert!(
        error.to_string().contains("a quota is used up") && error.to_string().contains("exceeded quota: few"),
        "{error}"
    );
    scheduler.stop_workers(&job(), None, true).await.unwrap();
    cluster.end().await;
}

#[tokio::test]
async fn what_admission_or_the_api_itself_refuses_is_not_tried_again() {
    let Some(cluster) = Cluster::get().await else { return };
    let tap = Tap::on(cluster.config.clone(), |_, _| Act::Pass);
    let scheduler = cluster.builder(tap.client()).build();
    let mut invalid: PodTemplateSpec = shell("exit");
    invalid.spec.as_mut().unwrap().containers[0].name = "No Name".to_owned();
    let error = scheduler.start(env_of(RUN, 1), invalid).await.unwrap_err();
    assert_eq!((trouble(&error), tap.asked("POST")), (Trouble::Refused, 1), "{error}");
    assert!(error.to_string().contains("spec.containers[0].name"), "{error}");

    let limits = json!([{ "type": "Container", "max": { "cpu": "1" } }]);
    cluster.create::<LimitRange>(json!({ "metadata": { "name": "small" }, "spec": { "limits": limits } })).await;
    let mut greedy = shell("exit");
    greedy.spec.as_mut().unwrap().containers[0].resources =
        Some(serde_json::from_value(json!({ "limits": { "cpu": "2" } })).unwrap());
    let mut refused = None;
    // This one is read from a cache, too.
    for number in 1..=200 {
        match scheduler.start(env_of(RUN, number), greedy.clone()).await {
            Ok(_) => tokio::time::sleep(ms(50)).await,
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let error = refused.expect("the limit range is never seen");
    assert_eq!((trouble(&error), error.is_retryable()), (Trouble::Refused, false), "{error}");
    assert!(error.to_string().contains("maximum cpu usage"), "{error}");
    scheduler.stop_workers(&job(), None, true).await.unwrap();
    cluster.end().await;
}

#[tokio::test]
async fn a_throttled_request_is_made_again_when_the_server_says_so_and_not_before() {
    let Some(cluster) = Cluster::get().await else { return };
    let mut times = 0;
    let tap = Tap::on(cluster.config.clone(), move |method, _| {
        times += i32::from(method == "DELETE");
        if method == "DELETE" && times <= 2 {
            let body = "Too many requests, please try again later.\n".to_owned();
            return Act::Answer { code: 429, retry_after: Some("1"), body };
        }
        Act::Pass
    });
    let scheduler = cluster.builder(tap.client()).build();
    scheduler.start(env_of(RUN, 1), shell("exit")).await.unwrap();
    let began = Instant::now();
    scheduler.stop_workers(&job(), Some(RUN), true).await.unwrap();
    assert!(began.elapsed() >= ms(2000), "{:?}", began.elapsed());
    assert_eq!(tap.asked("DELETE"), 3);
    cluster.end().await;
}

#[tokio::test]
async fn a_server_that_throttles_without_end_is_reported_when_the_time_is_over() {
    let Some(cluster) = Cluster::get().await else { return };
    let answer = |_: &str, _: &str| Act::Answer { code: 429, retry_after: Some("1"), body: "busy".to_owned() };
    let tap = Tap::on(cluster.config.clone(), answer);
    let scheduler = cluster.builder(tap.client()).limit(ms(2500)).build();
    let error = scheduler.workers_for_job(&job(), None).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(error.to_string().contains("can't list pods") && error.to_string().contains("throttling"), "{error}");
    assert!(tap.asked("GET") <= 3, "it asked {} times", tap.asked("GET"));
    cluster.end().await;
}

#[tokio::test]
async fn a_start_whose_answer_was_lost_is_not_taken_for_another_ones_pod() {
    let Some(cluster) = Cluster::get().await else { return };
    let mut first = true;
    let tap = Tap::on(cluster.config.clone(), move |method, _| {
        if method == "POST" && std::mem::take(&mut first) { Act::Lose } else { Act::Pass }
    });
    let scheduler = cluster.builder(tap.client()).build();
    let pod = scheduler.start(env_of(RUN, 1), shell("exit")).await.unwrap();
    assert_eq!(tap.asked("POST"), 2);
    assert_eq!(cluster.pod(pod.name()).await.unwrap().metadata.uid.as_deref(), Some(pod.uid()));
    assert_eq!(scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap(), workers([1]));
    scheduler.stop_workers(&job(), Some(RUN), true).await.unwrap();

    // A pod of somebody else has the name.
    let spec = shell("exit").spec;
    cluster
        .create::<k8s_openapi::api::core::v1::Pod>(json!({ "metadata": { "name": "words-8-1" }, "spec": spec }))
        .await;
    let error = scheduler.start(env_of(RUN.next(), 1), shell("exit")).await.unwrap_err();
    assert!(matches!(error, StartError::NameTaken { .. }), "{error}");
    scheduler.stop_workers(&job(), None, true).await.unwrap();
    assert!(cluster.pod("words-8-1").await.is_some(), "it is none of the job's");
    cluster.remove("words-8-1").await;
    cluster.end().await;
}
