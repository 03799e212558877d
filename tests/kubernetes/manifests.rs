//! What is in `deploy/kubernetes` is taken by the API server, and worker pods can be made from it.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::{
    api::{DynamicObject, PostParams},
    core::{ApiResource, GroupVersionKind, TypeMeta},
};
use winddown::Scheduler;

use crate::cluster::{Cluster, RUN, env_of, job};

#[tokio::test]
async fn the_manifests_are_valid_and_the_worker_template_makes_pods() {
    let Some(cluster) = Cluster::get().await else { return };
    let files =
        [include_str!("../../deploy/kubernetes/role.yaml"), include_str!("../../deploy/kubernetes/wordcount.yaml")];
    let mut kinds = Vec::new();
    for text in files.iter().flat_map(|file| file.split("\n---\n")) {
        let object: DynamicObject = serde_saphyr::from_str(text).unwrap();
        let TypeMeta { api_version, kind } = object.types.clone().unwrap();
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
        let api = kube::Api::<DynamicObject>::namespaced_with(cluster.admin.clone(), &cluster.namespace, &resource);
        let taken = api.create(&PostParams::default(), &object).await.unwrap_or_else(|error| panic!("{kind}: {error}"));
        if kind == "ConfigMap" {
            let template = taken.data["data"]["worker.yaml"].as_str().unwrap();
            let template: PodTemplateSpec = serde_saphyr::from_str(template).unwrap();
            let scheduler = cluster.scheduler();
            scheduler.start(env_of(RUN, 1), template).await.unwrap();
            scheduler.stop_workers(&job(), Some(RUN), true).await.unwrap();
        }
        kinds.push(kind);
    }
    assert_eq!(kinds, ["Role", "ServiceAccount", "RoleBinding", "PersistentVolumeClaim", "ConfigMap", "Job"]);
    cluster.end().await;
}
