//! What every namespace is given: the `default` service account, and the certificate its pods check the API by.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::objects::is_deleting;
use crate::runtime::{Action, Controller, Key, Now, Plan, World};

const ROOT_CA: &str = "kube-root-ca.crt";

pub fn controller() -> Controller {
    Controller::new("namespace-content", reconcile)
        .of::<Namespace>()
        .watching::<ServiceAccount>(|_, old, new| namespace_key(old.or(new).map(|o| &o.metadata)))
        .watching::<ConfigMap>(|_, old, new| namespace_key(old.or(new).map(|o| &o.metadata)))
}

fn namespace_key(metadata: Option<&ObjectMeta>) -> Vec<Key> {
    let namespace = metadata.and_then(|metadata| metadata.namespace.as_deref());
    namespace.map(|namespace| Key::new("", namespace)).into_iter().collect()
}

pub fn reconcile(world: &World, key: &Key, _now: &Now) -> Plan {
    let mut plan = Plan::none();
    let Some(namespace) = world.namespaces.get(key).filter(|namespace| !is_deleting(namespace.as_ref()))
    else {
        return plan;
    };
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let metadata = |object: &str| ObjectMeta {
        namespace: Some(name.into()),
        name: Some(object.into()),
        ..ObjectMeta::default()
    };
    if world.service_accounts.find(name, "default").is_none() {
        plan.push(Action::create(&ServiceAccount { metadata: metadata("default"), ..Default::default() }));
    }
    if world.settings.root_ca_pem.is_empty() {
        return plan;
    }
    let data = [("ca.crt".to_string(), world.settings.root_ca_pem.clone())].into();
    match world.root_certificates.find(name, ROOT_CA) {
        None => {
            let mut metadata = metadata(ROOT_CA);
            let about =
                "The certificate authority of this cluster's API server, for use from inside the cluster.";
            metadata.annotations = Some([("kubernetes.io/description".into(), about.into())].into());
            plan.push(Action::create(&ConfigMap { metadata, data: Some(data), ..Default::default() }));
        }
        Some(map) if map.data.as_ref() != Some(&data) && !is_deleting(map.as_ref()) => {
            plan.push(Action::update(&ConfigMap { data: Some(data), binary_data: None, ..(**map).clone() }));
        }
        Some(_) => {}
    }
    plan
}
