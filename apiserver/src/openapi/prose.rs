//! What types and fields mean, as `k8s-openapi` describes them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// Descriptions of one group version's types, by the names of their components.
pub(super) struct Prose {
    definitions: Map<String, Value>,
}

impl Prose {
    /// Empty where nobody described it.
    pub fn of_type(&self, name: &str) -> &str {
        self.definitions.get(name).and_then(|of| of["description"].as_str()).unwrap_or_default()
    }

    pub fn of_field(&self, name: &str, field: &str) -> &str {
        let of = self.definitions.get(name).and_then(|of| of["properties"][field]["description"].as_str());
        of.unwrap_or_default()
    }
}

type Describe = fn(&mut SchemaGenerator);

macro_rules! kinds {
    ($($group:literal $version:literal [$($module:ident)::+] $($kind:ident)+;)+) => {
        &[$(($group, $version, {
            use k8s_openapi::$($module)::+ as types;
            &[$(|generator| {
                generator.subschema_for::<types::$kind>();
            }),+]
        })),+]
    };
}

/// All kinds of a group version whose types are described.
static KINDS: &[(&str, &str, &[Describe])] = kinds![
    "" "v1" [api::core::v1] Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node
        PersistentVolumeClaim PersistentVolume Pod PodTemplate ReplicationController ResourceQuota Secret
        ServiceAccount Service;
    "apiregistration.k8s.io" "v1" [kube_aggregator::pkg::apis::apiregistration::v1] APIService;
    "apps" "v1" [api::apps::v1] ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet;
    "events.k8s.io" "v1" [api::events::v1] Event;
    "authentication.k8s.io" "v1" [api::authentication::v1] SelfSubjectReview TokenReview TokenRequest;
    "authorization.k8s.io" "v1" [api::authorization::v1] LocalSubjectAccessReview SelfSubjectAccessReview
        SelfSubjectRulesReview SubjectAccessReview;
    "autoscaling" "v2" [api::autoscaling::v2] HorizontalPodAutoscaler;
    "autoscaling" "v1" [api::autoscaling::v1] HorizontalPodAutoscaler Scale;
    "batch" "v1" [api::batch::v1] CronJob Job;
    "certificates.k8s.io" "v1" [api::certificates::v1] CertificateSigningRequest;
    "networking.k8s.io" "v1" [api::networking::v1] IngressClass Ingress IPAddress NetworkPolicy ServiceCIDR;
    "policy" "v1" [api::policy::v1] PodDisruptionBudget Eviction;
    "rbac.authorization.k8s.io" "v1" [api::rbac::v1] ClusterRoleBinding ClusterRole RoleBinding Role;
    "storage.k8s.io" "v1" [api::storage::v1] CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment
        VolumeAttributesClass;
    "admissionregistration.k8s.io" "v1" [api::admissionregistration::v1] MutatingAdmissionPolicy
        MutatingAdmissionPolicyBinding MutatingWebhookConfiguration ValidatingAdmissionPolicy
        ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration;
    "apiextensions.k8s.io" "v1" [apiextensions_apiserver::pkg::apis::apiextensions::v1] CustomResourceDefinition;
    "scheduling.k8s.io" "v1" [api::scheduling::v1] PriorityClass;
    "coordination.k8s.io" "v1" [api::coordination::v1] Lease;
    "node.k8s.io" "v1" [api::node::v1] RuntimeClass;
    "discovery.k8s.io" "v1" [api::discovery::v1] EndpointSlice;
    "resource.k8s.io" "v1" [api::resource::v1] DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice;
    "flowcontrol.apiserver.k8s.io" "v1" [api::flowcontrol::v1] FlowSchema PriorityLevelConfiguration;
];

/// Subresources whose documents are of another group version.
static GUESTS: &[(&str, &str, &str, &str)] = &[
    ("", "v1", "policy", "v1"),
    ("", "v1", "autoscaling", "v1"),
    ("", "v1", "authentication.k8s.io", "v1"),
    ("apps", "v1", "autoscaling", "v1"),
];

/// For a document that describes nothing.
pub(super) fn none() -> Prose {
    Prose { definitions: Map::new() }
}

/// The descriptions a document of the group version needs; none for groups of custom resources.
pub(super) fn of(group: &str, version: &str) -> Prose {
    let mut generator = SchemaGenerator::new(SchemaSettings::openapi3());
    generator.subschema_for::<meta::DeleteOptions>();
    generator.subschema_for::<meta::Status>();
    generator.subschema_for::<meta::Patch>();
    let guests = GUESTS.iter().filter(|(g, v, ..)| *g == group && *v == version).map(|(_, _, g, v)| (*g, *v));
    for (group, version) in std::iter::once((group, version)).chain(guests) {
        let kinds = KINDS.iter().filter(|(g, v, _)| *g == group && *v == version);
        for describe in kinds.flat_map(|(_, _, kinds)| kinds.iter()) {
            describe(&mut generator);
        }
    }
    Prose { definitions: generator.take_definitions(false) }
}
