//! The built-in rows: every resource upstream serves by default at v1.36.

use super::{Resource, Scope, Verbs};

const ALL: Verbs = Verbs::ALL;
const ALL_BUT_DELETE_COLLECTION: Verbs = Verbs::ALL.without(Verbs::DELETECOLLECTION);
const NAMESPACED: Scope = Scope::Namespaced;
const CLUSTER: Scope = Scope::Cluster;

/// One line of the table; lists are separated by spaces.
struct Row(
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    Scope,
    Verbs,
    &'static str,
    &'static str,
    &'static str,
);

#[expect(clippy::too_many_arguments, reason = "a table row, read by column")]
const fn row(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    scope: Scope,
    verbs: Verbs,
    short_names: &'static str,
    categories: &'static str,
    subresources: &'static str,
) -> Row {
    Row(group, version, kind, plural, scope, verbs, short_names, categories, subresources)
}

#[rustfmt::skip]
static TABLE: &[Row] = &[
    row("", "v1", "Binding", "bindings", NAMESPACED, Verbs::CREATE, "", "", ""),
    row("", "v1", "ComponentStatus", "componentstatuses", CLUSTER, Verbs::GET.with(Verbs::LIST), "cs", "", ""),
    row("", "v1", "ConfigMap", "configmaps", NAMESPACED, ALL, "cm", "", ""),
    row("", "v1", "Endpoints", "endpoints", NAMESPACED, ALL, "ep", "", ""),
    row("", "v1", "Event", "events", NAMESPACED, ALL, "ev", "", ""),
    row("", "v1", "LimitRange", "limitranges", NAMESPACED, ALL, "limits", "", ""),
    row("", "v1", "Namespace", "namespaces", CLUSTER, ALL_BUT_DELETE_COLLECTION, "ns", "", "finalize status"),
    row("", "v1", "Node", "nodes", CLUSTER, ALL, "no", "", "proxy status"),
    row("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", NAMESPACED, ALL, "pvc", "", "status"),
    row("", "v1", "PersistentVolume", "persistentvolumes", CLUSTER, ALL, "pv", "", "status"),
    row("", "v1", "Pod", "pods", NAMESPACED, ALL, "po", "all", "attach binding ephemeralcontainers eviction exec log portforward proxy resize status"),
    row("", "v1", "PodTemplate", "podtemplates", NAMESPACED, ALL, "", "", ""),
    row("", "v1", "ReplicationController", "replicationcontrollers", NAMESPACED, ALL, "rc", "all", "scale status"),
    row("", "v1", "ResourceQuota", "resourcequotas", NAMESPACED, ALL, "quota", "", "status"),
    row("", "v1", "Secret", "secrets", NAMESPACED, ALL, "", "", ""),
    row("", "v1", "ServiceAccount", "serviceaccounts", NAMESPACED, ALL, "sa", "", "token"),
    row("", "v1", "Service", "services", NAMESPACED, ALL, "svc", "all", "proxy status"),
    row("apiregistration.k8s.io", "v1", "APIService", "apiservices", CLUSTER, ALL, "", "api-extensions", "status"),
    row("apps", "v1", "ControllerRevision", "controllerrevisions", NAMESPACED, ALL, "", "", ""),
    row("apps", "v1", "DaemonSet", "daemonsets", NAMESPACED, ALL, "ds", "all", "status"),
    row("apps", "v1", "Deployment", "deployments", NAMESPACED, ALL, "deploy", "all", "scale status"),
    row("apps", "v1", "ReplicaSet", "replicasets", NAMESPACED, ALL, "rs", "all", "scale status"),
    row("apps", "v1", "StatefulSet", "statefulsets", NAMESPACED, ALL, "sts", "all", "scale status"),
    row("events.k8s.io", "v1", "Event", "events", NAMESPACED, ALL, "ev", "", ""),
    row("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", CLUSTER, Verbs::CREATE, "", "", ""),
    row("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", CLUSTER, Verbs::CREATE, "", "", ""),
    row("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", NAMESPACED, Verbs::CREATE, "", "", ""),
    row("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", CLUSTER, Verbs::CREATE, "", "", ""),
    row("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", CLUSTER, Verbs::CREATE, "", "", ""),
    row("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", CLUSTER, Verbs::CREATE, "", "", ""),
    row("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", NAMESPACED, ALL, "hpa", "all", "status"),
    row("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", NAMESPACED, ALL, "hpa", "all", "status"),
    row("batch", "v1", "CronJob", "cronjobs", NAMESPACED, ALL, "cj", "all", "status"),
    row("batch", "v1", "Job", "jobs", NAMESPACED, ALL, "", "all", "status"),
    row("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests", CLUSTER, ALL, "csr", "", "approval status"),
    row("networking.k8s.io", "v1", "IngressClass", "ingressclasses", CLUSTER, ALL, "", "", ""),
    row("networking.k8s.io", "v1", "Ingress", "ingresses", NAMESPACED, ALL, "ing", "", "status"),
    row("networking.k8s.io", "v1", "IPAddress", "ipaddresses", CLUSTER, ALL, "ip", "", ""),
    row("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", NAMESPACED, ALL, "netpol", "", ""),
    row("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", CLUSTER, ALL, "", "", "status"),
    row("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", NAMESPACED, ALL, "pdb", "", "status"),
    row("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", CLUSTER, ALL, "", "", ""),
    row("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", CLUSTER, ALL, "", "", ""),
    row("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", NAMESPACED, ALL, "", "", ""),
    row("rbac.authorization.k8s.io", "v1", "Role", "roles", NAMESPACED, ALL, "", "", ""),
    row("storage.k8s.io", "v1", "CSIDriver", "csidrivers", CLUSTER, ALL, "", "", ""),
    row("storage.k8s.io", "v1", "CSINode", "csinodes", CLUSTER, ALL, "", "", ""),
    row("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities", NAMESPACED, ALL, "", "", ""),
    row("storage.k8s.io", "v1", "StorageClass", "storageclasses", CLUSTER, ALL, "sc", "", ""),
    row("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", CLUSTER, ALL, "", "", "status"),
    row("storage.k8s.io", "v1", "VolumeAttributesClass", "volumeattributesclasses", CLUSTER, ALL, "vac", "", ""),
    row("admissionregistration.k8s.io", "v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies", CLUSTER, ALL, "", "api-extensions", ""),
    row("admissionregistration.k8s.io", "v1", "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", CLUSTER, ALL, "", "api-extensions", ""),
    row("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", CLUSTER, ALL, "", "api-extensions", ""),
    row("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", CLUSTER, ALL, "", "api-extensions", "status"),
    row("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", CLUSTER, ALL, "", "api-extensions", ""),
    row("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", CLUSTER, ALL, "", "api-extensions", ""),
    row("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", CLUSTER, ALL, "crd crds", "api-extensions", "status"),
    row("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", CLUSTER, ALL, "pc", "", ""),
    row("coordination.k8s.io", "v1", "Lease", "leases", NAMESPACED, ALL, "", "", ""),
    row("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", CLUSTER, ALL, "", "", ""),
    row("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", NAMESPACED, ALL, "", "", ""),
    row("resource.k8s.io", "v1", "DeviceClass", "deviceclasses", CLUSTER, ALL, "", "", ""),
    row("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims", NAMESPACED, ALL, "", "", "status"),
    row("resource.k8s.io", "v1", "ResourceClaimTemplate", "resourceclaimtemplates", NAMESPACED, ALL, "", "", ""),
    row("resource.k8s.io", "v1", "ResourceSlice", "resourceslices", CLUSTER, ALL, "", "", ""),
    row("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas", CLUSTER, ALL, "", "", "status"),
    row("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations", CLUSTER, ALL, "", "", "status"),
];

pub(super) fn rows() -> impl Iterator<Item = Resource> {
    TABLE.iter().map(
        |&Row(group, version, kind, plural, scope, verbs, short_names, categories, subresources)| {
            Resource::new(group, version, kind, plural, scope, verbs)
                .with_short_names(short_names.split_whitespace())
                .with_categories(categories.split_whitespace())
                .with_subresources(subresources.split_whitespace())
        },
    )
}
