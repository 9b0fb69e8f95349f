//! What is shown of each kind.

use jiff::Timestamp;
use kontiki_proto::quantity::Quantity;
use serde_json::Value;

use super::page::{Page, age};
use crate::output::table::align;

/// `related` are the pods of a node, the slices of a service, the replica sets of a deployment's namespace.
pub fn describe(object: &Value, related: &[Value], page: &mut Page) {
    let metadata = &object["metadata"];
    page.value("Name", &metadata["name"]);
    page.optional("Namespace", &metadata["namespace"]);
    match object["kind"].as_str().unwrap_or_default() {
        "Pod" => pod(object, page),
        "Node" => node(object, related, page),
        "Deployment" => deployment(object, related, page),
        "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" => workload(object, page),
        "Service" => service(object, related, page),
        "Secret" => secret(object, page),
        "ConfigMap" => config_map(object, page),
        _ => generic(object, page),
    }
}

fn labels(object: &Value, page: &mut Page) {
    page.map("Labels", &object["metadata"]["labels"], "=");
    let mut annotations = object["metadata"]["annotations"].clone();
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    page.map("Annotations", &annotations, ": ");
}

fn generic(object: &Value, page: &mut Page) {
    labels(object, page);
    page.value("API Version", &object["apiVersion"]);
    page.value("Kind", &object["kind"]);
    page.value("Created", &object["metadata"]["creationTimestamp"]);
    let head = ["apiVersion", "kind", "metadata"];
    for (name, value) in
        object.as_object().into_iter().flatten().filter(|(name, _)| !head.contains(&name.as_str()))
    {
        let mut title = name.clone();
        title[..1].make_ascii_uppercase();
        page.tree(&title, value);
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn controller(object: &Value, page: &mut Page) {
    let owner = items(&object["metadata"]["ownerReferences"]).find(|owner| owner["controller"] == true);
    if let Some(owner) = owner {
        page.field("Controlled By", &format!("{}/{}", text(&owner["kind"]), text(&owner["name"])));
    }
}

fn conditions(object: &Value, page: &mut Page) {
    let all: Vec<&Value> = items(&object["status"]["conditions"]).collect();
    if all.is_empty() {
        return;
    }
    let mut lines = vec![["Type", "Status", "Reason", "Message"].map(String::from).to_vec()];
    lines.extend(
        all.iter().map(|c| ["type", "status", "reason", "message"].map(|field| text(&c[field])).to_vec()),
    );
    page.heading("Conditions");
    for line in align(&lines).lines() {
        page.line(1, line);
    }
}

// -------------------------------------------------------------------------------------------------------------- pods

fn pod(pod: &Value, page: &mut Page) {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    page.optional("Priority", &spec["priority"]);
    page.value("Service Account", &spec["serviceAccountName"]);
    page.field(
        "Node",
        &match (text(&spec["nodeName"]), text(&status["hostIP"])) {
            (node, _) if node.is_empty() => "<none>".into(),
            (node, address) if address.is_empty() => node,
            (node, address) => format!("{node}/{address}"),
        },
    );
    page.value("Start Time", &status["startTime"]);
    labels(pod, page);
    if pod["metadata"]["deletionTimestamp"].is_null() {
        page.value("Status", &status["phase"]);
    } else {
        let since = text(&pod["metadata"]["deletionTimestamp"]);
        page.field("Status", &format!("Terminating (at the latest at {since})"));
    }
    page.optional("Reason", &status["reason"]);
    page.optional("Message", &status["message"]);
    page.value("IP", &status["podIP"]);
    controller(pod, page);
    for (title, specs, statuses) in [
        ("Init Containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
        ("Ephemeral Containers", "ephemeralContainers", "ephemeralContainerStatuses"),
    ] {
        if spec[specs].as_array().is_some_and(|list| !list.is_empty()) {
            page.heading(title);
            for container in items(&spec[specs]) {
                let status = items(&status[statuses]).find(|status| status["name"] == container["name"]);
                page.within(|page| container_page(container, status, page));
            }
        }
    }
    conditions(pod, page);
    volumes(spec, page);
    page.value("QoS Class", &status["qosClass"]);
    page.map("Node-Selectors", &spec["nodeSelector"], "=");
    page.lines("Tolerations", &items(&spec["tolerations"]).map(toleration).collect::<Vec<_>>());
}

fn container_page(container: &Value, status: Option<&Value>, page: &mut Page) {
    let null = Value::Null;
    let status = status.unwrap_or(&null);
    page.heading(&text(&container["name"]));
    page.within(|page| {
        page.optional("Container ID", &status["containerID"]);
        page.value("Image", &container["image"]);
        page.optional("Image ID", &status["imageID"]);
        let ports: Vec<String> = items(&container["ports"])
            .map(|port| {
                format!("{}/{}", text(&port["containerPort"]), port["protocol"].as_str().unwrap_or("TCP"))
            })
            .collect();
        page.field("Ports", &if ports.is_empty() { "<none>".into() } else { ports.join(", ") });
        for (name, field) in [("Command", "command"), ("Args", "args")] {
            if container[field].is_array() {
                page.lines(name, &items(&container[field]).map(text).collect::<Vec<_>>());
            }
        }
        state("State", &status["state"], page);
        state("Last State", &status["lastState"], page);
        page.field("Ready", if status["ready"] == true { "True" } else { "False" });
        page.field("Restart Count", &status["restartCount"].as_i64().unwrap_or(0).to_string());
        for (name, field) in [("Limits", "limits"), ("Requests", "requests")] {
            if container["resources"][field].is_object() {
                page.map(name, &container["resources"][field], ": ");
            }
        }
        for (name, field) in
            [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
        {
            if container[field].is_object() {
                page.field(name, &probe(&container[field]));
            }
        }
        page.lines("Environment", &items(&container["env"]).map(environment).collect::<Vec<_>>());
        let mounts = items(&container["volumeMounts"]).map(|mount| {
            let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
            format!("{} from {} ({mode})", text(&mount["mountPath"]), text(&mount["name"]))
        });
        page.lines("Mounts", &mounts.collect::<Vec<_>>());
    });
}

fn state(title: &str, state: &Value, page: &mut Page) {
    let Some((name, detail)) =
        state.as_object().and_then(|state| state.iter().find(|(_, detail)| !detail.is_null()))
    else {
        return;
    };
    let mut name = name.clone();
    name[..1].make_ascii_uppercase();
    page.field(title, &name);
    page.within(|page| {
        page.optional("Reason", &detail["reason"]);
        page.optional("Message", &detail["message"]);
        page.optional("Exit Code", &detail["exitCode"]);
        page.optional("Started", &detail["startedAt"]);
        page.optional("Finished", &detail["finishedAt"]);
    });
}

fn probe(probe: &Value) -> String {
    let action = if let Some(http) = probe.get("httpGet") {
        let scheme = http["scheme"].as_str().unwrap_or("HTTP").to_lowercase();
        format!("http-get {scheme}://{}:{}{}", text(&http["host"]), text(&http["port"]), text(&http["path"]))
    } else if let Some(exec) = probe.get("exec") {
        format!("exec {}", exec["command"])
    } else if let Some(tcp) = probe.get("tcpSocket") {
        format!("tcp-socket {}:{}", text(&tcp["host"]), text(&tcp["port"]))
    } else if let Some(grpc) = probe.get("grpc") {
        format!("grpc :{} {}", text(&grpc["port"]), text(&grpc["service"]))
    } else {
        "unknown".into()
    };
    let number = |field: &str, default: i64| probe[field].as_i64().unwrap_or(default);
    format!(
        "{action} delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds", 0),
        number("timeoutSeconds", 1),
        number("periodSeconds", 10),
        number("successThreshold", 1),
        number("failureThreshold", 3)
    )
}

fn environment(variable: &Value) -> String {
    let name = text(&variable["name"]);
    let Some(from) = variable.get("valueFrom") else { return format!("{name}={}", text(&variable["value"])) };
    let source = if let Some(key) = from.get("configMapKeyRef") {
        format!("<set to the key '{}' of config map '{}'>", text(&key["key"]), text(&key["name"]))
    } else if let Some(key) = from.get("secretKeyRef") {
        format!("<set to the key '{}' in secret '{}'>", text(&key["key"]), text(&key["name"]))
    } else if let Some(field) = from.get("fieldRef") {
        format!("({}:{})", text(&field["apiVersion"]), text(&field["fieldPath"]))
    } else if let Some(resource) = from.get("resourceFieldRef") {
        format!("({})", text(&resource["resource"]))
    } else {
        from.to_string()
    };
    format!("{name}={source}")
}

fn volumes(spec: &Value, page: &mut Page) {
    if items(&spec["volumes"]).next().is_none() {
        page.field("Volumes", "<none>");
        return;
    }
    page.heading("Volumes");
    for volume in items(&spec["volumes"]) {
        let source = volume.as_object().into_iter().flatten().find(|(key, _)| key.as_str() != "name");
        if let Some((kind, detail)) = source {
            page.within(|page| page.field(&text(&volume["name"]), &format!("{kind} {detail}")));
        }
    }
}

fn toleration(toleration: &Value) -> String {
    let mut words = text(&toleration["key"]);
    if toleration["operator"] != "Exists" && !toleration["value"].is_null() {
        words += &format!("={}", text(&toleration["value"]));
    }
    if let Some(effect) = toleration["effect"].as_str() {
        words += &format!(":{effect}");
    }
    if toleration["operator"] == "Exists" {
        words += " op=Exists";
    }
    if let Some(seconds) = toleration["tolerationSeconds"].as_i64() {
        words += &format!(" for {seconds}s");
    }
    words
}

// -------------------------------------------------------------------------------------------------------------- nodes

fn node(node: &Value, pods: &[Value], page: &mut Page) {
    let (spec, status) = (&node["spec"], &node["status"]);
    labels(node, page);
    page.value("Created", &node["metadata"]["creationTimestamp"]);
    let taints = items(&spec["taints"]).map(|taint| {
        let value = taint["value"].as_str().map(|value| format!("={value}")).unwrap_or_default();
        format!("{}{value}:{}", text(&taint["key"]), text(&taint["effect"]))
    });
    page.lines("Taints", &taints.collect::<Vec<_>>());
    page.field("Unschedulable", &(spec["unschedulable"] == true).to_string());
    conditions(node, page);
    let addresses =
        items(&status["addresses"]).map(|a| format!("{}: {}", text(&a["type"]), text(&a["address"])));
    page.lines("Addresses", &addresses.collect::<Vec<_>>());
    page.map("Capacity", &status["capacity"], ": ");
    page.map("Allocatable", &status["allocatable"], ": ");
    page.heading("System Info");
    page.within(|page| {
        for (title, field) in [
            ("Kernel", "kernelVersion"),
            ("OS Image", "osImage"),
            ("Architecture", "architecture"),
            ("Runtime", "containerRuntimeVersion"),
            ("Agent", "kubeletVersion"),
        ] {
            page.value(title, &status["nodeInfo"][field]);
        }
    });
    page.value("PodCIDR", &spec["podCIDR"]);
    node_pods(status, pods, page);
}

/// What all containers of a pod ask for.
fn request(pod: &Value, resource: &str) -> Quantity {
    items(&pod["spec"]["containers"])
        .filter_map(|container| container["resources"]["requests"][resource].as_str()?.parse().ok())
        .sum()
}

fn share(part: Quantity, whole: &Value) -> String {
    let whole = whole.as_str().and_then(|text| text.parse::<Quantity>().ok()).map_or(0, Quantity::milli);
    let percent = if whole > 0 { i128::from(part.milli()) * 100 / i128::from(whole) } else { 0 };
    format!("{part} ({percent}%)")
}

fn node_pods(status: &Value, pods: &[Value], page: &mut Page) {
    let now = Timestamp::now();
    page.line(0, &format!("Non-terminated Pods: ({} in total)", pods.len()));
    let allocatable = &status["allocatable"];
    let mut lines =
        vec![["Namespace", "Name", "CPU Requests", "Memory Requests", "Age"].map(String::from).to_vec()];
    for pod in pods {
        let created = text(&pod["metadata"]["creationTimestamp"]).parse::<Timestamp>();
        lines.push(vec![
            text(&pod["metadata"]["namespace"]),
            text(&pod["metadata"]["name"]),
            share(request(pod, "cpu"), &allocatable["cpu"]),
            share(request(pod, "memory"), &allocatable["memory"]),
            created.map_or_else(|_| "<unknown>".into(), |created| age(created, now)),
        ]);
    }
    for line in align(&lines).lines() {
        page.line(1, line);
    }
    page.heading("Allocated resources");
    page.within(|page| {
        for resource in ["cpu", "memory"] {
            let total = pods.iter().map(|pod| request(pod, resource)).sum();
            page.field(resource, &share(total, &allocatable[resource]));
        }
    });
}

// ---------------------------------------------------------------------------------------------------------- workloads

fn selector(object: &Value, page: &mut Page) {
    let selector = serde_json::from_value(object["spec"]["selector"].clone())
        .ok()
        .and_then(|selector| kontiki_proto::selector::Selector::from_label_selector(&selector).ok());
    page.field("Selector", &selector.map(|selector| selector.to_string()).unwrap_or_default());
}

fn template(template: &Value, page: &mut Page) {
    page.heading("Pod Template");
    page.within(|page| {
        page.map("Labels", &template["metadata"]["labels"], "=");
        page.optional("Service Account", &template["spec"]["serviceAccountName"]);
        page.heading("Containers");
        for container in items(&template["spec"]["containers"]) {
            page.within(|page| container_brief(container, page));
        }
        volumes(&template["spec"], page);
    });
}

fn container_brief(container: &Value, page: &mut Page) {
    page.heading(&text(&container["name"]));
    page.within(|page| {
        page.value("Image", &container["image"]);
        for (name, field) in [("Limits", "limits"), ("Requests", "requests")] {
            if container["resources"][field].is_object() {
                page.map(name, &container["resources"][field], ": ");
            }
        }
        page.lines("Environment", &items(&container["env"]).map(environment).collect::<Vec<_>>());
    });
}

fn deployment(object: &Value, sets: &[Value], page: &mut Page) {
    let (spec, status) = (&object["spec"], &object["status"]);
    page.value("Created", &object["metadata"]["creationTimestamp"]);
    labels(object, page);
    selector(object, page);
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    page.field(
        "Replicas",
        &format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            spec["replicas"].as_i64().unwrap_or(1),
            count("updatedReplicas"),
            count("replicas"),
            count("availableReplicas"),
            count("unavailableReplicas")
        ),
    );
    page.value("Strategy", &spec["strategy"]["type"]);
    if let Some(rolling) = spec["strategy"].get("rollingUpdate") {
        let (unavailable, surge) = (text(&rolling["maxUnavailable"]), text(&rolling["maxSurge"]));
        page.field("Rolling Update", &format!("{unavailable} max unavailable, {surge} max surge"));
    }
    if spec["paused"] == true {
        page.field("Paused", "true (`kontiki rollout resume` goes on)");
    }
    template(&spec["template"], page);
    conditions(object, page);
    let uid = &object["metadata"]["uid"];
    let revision = |set: &Value| text(&set["metadata"]["annotations"]["deployment.kubernetes.io/revision"]);
    let own: Vec<String> = sets
        .iter()
        .filter(|set| items(&set["metadata"]["ownerReferences"]).any(|owner| &owner["uid"] == uid))
        .filter(|set| {
            set["spec"]["replicas"].as_i64().unwrap_or(0) + set["status"]["replicas"].as_i64().unwrap_or(0)
                > 0
        })
        .map(|set| {
            format!(
                "{} ({}/{} replicas, revision {})",
                text(&set["metadata"]["name"]),
                set["status"]["replicas"].as_i64().unwrap_or(0),
                set["spec"]["replicas"].as_i64().unwrap_or(0),
                revision(set)
            )
        })
        .collect();
    page.lines("ReplicaSets", &own);
}

fn workload(object: &Value, page: &mut Page) {
    page.value("Created", &object["metadata"]["creationTimestamp"]);
    labels(object, page);
    selector(object, page);
    controller(object, page);
    let status: Vec<String> = object["status"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| value.is_number())
        .map(|(field, value)| format!("{field}: {value}"))
        .collect();
    page.optional("Replicas", &object["spec"]["replicas"]);
    page.lines("Status", &status);
    template(&object["spec"]["template"], page);
    conditions(object, page);
}

// ------------------------------------------------------------------------------------------------------------- others

fn service(object: &Value, slices: &[Value], page: &mut Page) {
    let spec = &object["spec"];
    labels(object, page);
    let pairs = spec["selector"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", text(value)));
    let pairs = pairs.collect::<Vec<_>>().join(",");
    page.field("Selector", if pairs.is_empty() { "<none>" } else { &pairs });
    page.value("Type", &spec["type"]);
    page.optional("External Name", &spec["externalName"]);
    page.lines("IPs", &items(&spec["clusterIPs"]).map(text).collect::<Vec<_>>());
    for port in items(&spec["ports"]) {
        let name = port["name"].as_str().unwrap_or("<unset>");
        page.field("Port", &format!("{name}  {}/{}", text(&port["port"]), text(&port["protocol"])));
        page.field("TargetPort", &text(&port["targetPort"]));
        page.optional("NodePort", &port["nodePort"]);
        let addresses: Vec<String> = slices.iter().flat_map(|slice| endpoints(slice, port)).collect();
        page.field("Endpoints", &if addresses.is_empty() { "<none>".into() } else { addresses.join(",") });
    }
    page.value("Session Affinity", &spec["sessionAffinity"]);
}

/// Addresses of one slice that are ready to take a service's port.
fn endpoints(slice: &Value, port: &Value) -> Vec<String> {
    let name = |port: &Value| port["name"].as_str().unwrap_or_default().to_string();
    let Some(target) = items(&slice["ports"]).find(|candidate| name(candidate) == name(port)) else {
        return Vec::new();
    };
    items(&slice["endpoints"])
        .filter(|endpoint| endpoint["conditions"]["ready"] != false)
        .flat_map(|endpoint| items(&endpoint["addresses"]))
        .map(|address| format!("{}:{}", text(address), text(&target["port"])))
        .collect()
}

/// Sizes, never contents.
fn secret(object: &Value, page: &mut Page) {
    labels(object, page);
    page.value("Type", &object["type"]);
    page.heading("Data");
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        let encoded = value.as_str().unwrap_or_default();
        let size = encoded.trim_end_matches('=').len() * 3 / 4;
        page.within(|page| page.field(key, &format!("{size} bytes")));
    }
}

fn config_map(object: &Value, page: &mut Page) {
    labels(object, page);
    page.heading("Data");
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        page.line(0, &format!("{key}:"));
        page.line(0, "----");
        for line in value.as_str().unwrap_or_default().lines() {
            page.line(0, line);
        }
        page.line(0, "");
    }
    for (key, value) in object["binaryData"].as_object().into_iter().flatten() {
        let size = value.as_str().unwrap_or_default().trim_end_matches('=').len() * 3 / 4;
        page.field(key, &format!("{size} bytes, binary"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(object: &Value, related: &[Value]) -> String {
        let mut page = Page::default();
        describe(object, related, &mut page);
        page.text().to_string()
    }

    #[test]
    fn a_pod_shows_why_it_does_not_run() {
        let text = shown(
            &json!({
                "kind": "Pod",
                "metadata": { "name": "web-1", "namespace": "default", "labels": { "app": "web" },
                    "ownerReferences": [{ "kind": "ReplicaSet", "name": "web", "controller": true }] },
                "spec": { "nodeName": "n1", "containers": [{ "name": "c", "image": "i", "ports": [{ "containerPort": 80 }],
                    "env": [{ "name": "K", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }],
                    "readinessProbe": { "httpGet": { "port": 80, "path": "/ok" } } }] },
                "status": { "phase": "Running", "podIP": "10.0.0.1", "hostIP": "1.2.3.4",
                    "containerStatuses": [{ "name": "c", "restartCount": 3, "ready": false,
                        "state": { "waiting": { "reason": "CrashLoopBackOff" } },
                        "lastState": { "terminated": { "exitCode": 1, "reason": "Error" } } }] },
            }),
            &[],
        );
        for expected in [
            "Name:              web-1",
            "Node:              n1/1.2.3.4",
            "Controlled By:     ReplicaSet/web",
            "CrashLoopBackOff",
            "Exit Code:",
            "Restart Count:",
            "80/TCP",
            "K=<set to the key 'k' in secret 's'>",
            "http-get http://:80/ok delay=0s timeout=1s period=10s",
        ] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
    }

    #[test]
    fn a_node_shows_what_its_pods_ask_for() {
        let pod = |name: &str, cpu: &str| {
            json!({ "metadata": { "name": name, "namespace": "d" },
                    "spec": { "containers": [{ "resources": { "requests": { "cpu": cpu, "memory": "64Mi" } } }] } })
        };
        let node = json!({ "kind": "Node", "metadata": { "name": "n" },
            "status": { "allocatable": { "cpu": "2", "memory": "1Gi" }, "conditions": [{ "type": "Ready", "status": "True" }] } });
        let text = shown(&node, &[pod("a", "500m"), pod("b", "1")]);
        assert!(text.contains("(2 in total)") && text.contains("500m (25%)"), "{text}");
        assert!(text.contains("1500m (75%)") && text.contains("128Mi (12%)"), "{text}");
    }

    #[test]
    fn a_service_shows_the_endpoints_that_are_ready() {
        let service = json!({ "kind": "Service", "metadata": { "name": "s" },
            "spec": { "type": "ClusterIP", "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080 }] } });
        let slice = json!({ "ports": [{ "name": "http", "port": 8080 }], "endpoints": [
            { "addresses": ["10.0.0.1"], "conditions": { "ready": true } },
            { "addresses": ["10.0.0.2"], "conditions": { "ready": false } } ] });
        let text = shown(&service, &[slice]);
        assert!(text.contains("10.0.0.1:8080") && !text.contains("10.0.0.2"), "{text}");
    }

    #[test]
    fn a_secret_is_never_shown() {
        let text = shown(
            &json!({ "kind": "Secret", "metadata": { "name": "s" }, "data": { "k": "c2VjcmV0" } }),
            &[],
        );
        assert!(text.contains("6 bytes") && !text.contains("c2VjcmV0"), "{text}");
    }

    #[test]
    fn any_other_kind_is_shown_field_by_field() {
        let text = shown(
            &json!({ "kind": "Lease", "metadata": { "name": "l" }, "spec": { "holderIdentity": "a" } }),
            &[],
        );
        assert!(text.contains("Holder Identity:") && text.contains('a'), "{text}");
    }
}
