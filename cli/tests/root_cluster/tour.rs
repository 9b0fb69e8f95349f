//! What the README leads a newcomer through.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Cluster, eventually};

/// Three servers vote, two nodes are Ready, three replicas are available; and running `up` again touches no process
/// and writes no object.
pub fn up_is_idempotent(cluster: &Cluster) {
    let first = cluster.up();
    let steps = String::from_utf8_lossy(&first.stderr);
    for step in ["certificates", "network", "servers", "registry", "nodes", "sample"] {
        assert!(steps.contains(step), "up shows the step {step}: {steps}");
    }
    let members = cluster.members();
    assert_eq!(members.len(), 3);
    assert!(members.iter().all(|m| m["voter"] == true && m["pid"].as_u64() > Some(0)), "{members:?}");
    assert_eq!(members.iter().filter(|m| m["leader"] == true).count(), 1);

    let snapshot = || {
        let pids: Vec<_> = cluster.members().iter().map(|m| m["pid"].clone()).collect();
        let deployment = cluster.json("get deployment hello");
        (pids, deployment["metadata"]["generation"].clone(), deployment["metadata"]["uid"].clone())
    };
    let before = snapshot();
    cluster.up();
    assert_eq!(snapshot(), before);
    let deployment = cluster.json("get deployment hello");
    assert_eq!(deployment["status"]["availableReplicas"], 3);
}

pub fn kubectl_looks_around(cluster: &Cluster) {
    assert!(cluster.kubectl("version").contains("Server Version: v1.36"));
    assert!(cluster.kubectl("cluster-info").contains("is running at"));
    let resources = cluster.kubectl("api-resources");
    for name in ["pods", "deployments", "customresourcedefinitions", "leases"] {
        assert!(resources.contains(name), "api-resources lists {name}");
    }
    let all = cluster.kubectl("get nodes,pods -A -o wide");
    assert!(
        all.contains("node/node-1") && all.contains("pod/hello-") && all.contains("containerd://"),
        "{all}"
    );
    let on_node = cluster.kubectl("get pods --field-selector spec.nodeName=node-1 -o name");
    for pod in on_node.lines() {
        assert_eq!(cluster.json(&format!("get {pod}"))["spec"]["nodeName"], "node-1");
    }
    let explained = cluster.kubectl("explain pod.spec.containers");
    assert!(explained.contains("FIELD: containers") && explained.contains("livenessProbe"), "{explained}");
    let pod = first_pod(cluster, "app=hello");
    let described = cluster.kubectl(&format!("describe pod {pod}"));
    for part in ["Name:", "Node:", "Containers:", "Ready", "Events:", "Started"] {
        assert!(described.contains(part), "describe shows {part}: {described}");
    }
    assert!(cluster.kubectl(&format!("logs {pod}")).contains("serving v1"));
}

pub fn kubectl_applies(cluster: &Cluster) {
    let config = |value: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "applied" }, "data": { "key": value } });
    let file = cluster.manifest("applied.yaml", &[config("one")]);
    assert!(cluster.kubectl(&format!("apply -f {file}")).contains("configmap/applied created"));
    assert!(cluster.kubectl(&format!("apply -f {file}")).contains("configmap/applied unchanged"));
    let file = cluster.manifest("applied.yaml", &[config("two")]);
    assert!(cluster.kubectl(&format!("apply -f {file}")).contains("configmap/applied configured"));
    assert_eq!(cluster.json("get configmap applied")["data"]["key"], "two");
    cluster.kubectl("delete configmap applied");
    assert!(!cluster.try_kubectl("get configmap applied").status.success());
}

pub fn kubectl_rolls_out(cluster: &Cluster) {
    let image = sample_image(cluster);
    cluster.kubectl(&format!("create deployment web --image={image} --replicas=2"));
    cluster.kubectl("wait --for=condition=Available deployment/web --timeout=90s");
    cluster.kubectl("scale deployment web --replicas=3");
    cluster.kubectl("rollout status deployment/web --timeout=90s");
    assert_eq!(cluster.json("get deployment web")["status"]["readyReplicas"], 3);

    let next = image.replace(":v1", ":v2");
    cluster.kubectl(&format!("set image deployment/web hello={next}"));
    assert!(
        cluster.kubectl("rollout status deployment/web --timeout=120s").contains("successfully rolled out")
    );
    assert!(cluster.kubectl("rollout history deployment/web").contains('2'));
    let pod = first_pod(cluster, "app=web");
    assert!(cluster.kubectl(&format!("logs {pod}")).contains("serving v2"));
    cluster.kubectl("rollout undo deployment/web");
    cluster.kubectl("rollout status deployment/web --timeout=120s");
    let template = &cluster.json("get deployment web")["spec"]["template"];
    assert_eq!(template["spec"]["containers"][0]["image"], image);

    cluster.kubectl("delete deployment web");
    eventually("replica sets and pods follow their deployment", || {
        cluster.kubectl("get replicasets,pods -l app=web -o name").trim().is_empty().then_some(())
    });
}

pub fn kubectl_patches_and_watches(cluster: &Cluster) {
    cluster.kubectl("create configmap patched --from-literal=a=1");
    let watch = Command::new("timeout")
        .args(["20", "kubectl", "get", "configmap", "patched", "-w", "-o", "jsonpath={.data}{\"\\n\"}"])
        .env("KUBECONFIG", cluster.dir().join("kubeconfig"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    cluster.kubectl(r#"patch configmap patched --type=merge -p '{"data":{"b":"2"}}'"#);
    cluster
        .kubectl(r#"patch configmap patched --type=json -p '[{"op":"add","path":"/data/c","value":"3"}]'"#);
    cluster.kubectl(r#"patch configmap patched --type=strategic -p '{"data":{"a":null}}'"#);
    cluster.kubectl("label configmap patched tier=test");
    cluster.kubectl("annotate configmap patched note=yes");
    let object = cluster.json("get configmap patched");
    assert_eq!(object["data"], json!({ "b": "2", "c": "3" }));
    assert_eq!(object["metadata"]["labels"]["tier"], "test");
    assert_eq!(object["metadata"]["annotations"]["note"], "yes");
    cluster.kubectl("delete configmap patched");
    let pid = i32::try_from(watch.id()).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
    let seen = String::from_utf8(watch.wait_with_output().unwrap().stdout).unwrap();
    for state in [r#"{"a":"1"}"#, r#"{"a":"1","b":"2"}"#, r#"{"b":"2","c":"3"}"#] {
        assert!(seen.contains(state), "the watch shows {state}: {seen}");
    }
}

/// The verbs of [`kubectl_looks_around`] to [`kubectl_patches_and_watches`], over gRPC.
pub fn kontiki_does_the_same(cluster: &Cluster) {
    assert!(cluster.kontiki("version").contains("v1.36"));
    assert!(cluster.kontiki("api-resources").contains("deployments"));
    assert!(cluster.kontiki("get nodes,pods -A -o wide").contains("node-1"));
    let image = sample_image(cluster);
    cluster.kontiki(&format!("create deployment own --image={image} --replicas=2"));
    cluster.kontiki("wait --for=condition=Available deployment/own --timeout=90s");
    cluster.kontiki("scale deployment own --replicas=3");
    cluster.kontiki("rollout status deployment/own --timeout=90s");
    let next = image.replace(":v1", ":v2");
    cluster.kontiki(&format!("set image deployment/own hello={next}"));
    cluster.kontiki("rollout status deployment/own --timeout=120s");
    assert!(cluster.kontiki("rollout history deployment/own").contains('2'));
    cluster.kontiki("rollout undo deployment/own");
    cluster.kontiki("rollout status deployment/own --timeout=120s");
    let pod = first_pod(cluster, "app=own");
    assert!(cluster.kontiki(&format!("logs {pod}")).contains("serving v1"));
    assert!(cluster.kontiki(&format!("describe pod {pod}")).contains("Containers:"));
    cluster.kontiki("label deployment own tier=test");
    cluster.kontiki("annotate deployment own note=yes");
    cluster.kontiki(r#"patch deployment own --type=merge -p '{"metadata":{"labels":{"tier":"patched"}}}'"#);
    let object: Value = serde_json::from_str(&cluster.kontiki("get deployment own -o json")).unwrap();
    assert_eq!(object["metadata"]["labels"]["tier"], "patched");
    assert_eq!(cluster.kontiki("get deployment own -o jsonpath={.metadata.annotations.note}").trim(), "yes");
    let config = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "own" }, "data": { "k": "v" } });
    let file = cluster.manifest("own.yaml", &[config]);
    assert!(cluster.kontiki(&format!("apply -f {file}")).contains("created"));
    assert!(cluster.kontiki(&format!("apply -f {file}")).contains("unchanged"));
    cluster.kontiki(&format!("delete -f {file}"));
    cluster.kontiki("delete deployment own");
    eventually("pods follow their deployment", || {
        cluster.kubectl("get pods -l app=own -o name").trim().is_empty().then_some(())
    });
}

pub fn down_leaves_nothing_behind(cluster: &Cluster) {
    let dir = cluster.dir();
    cluster.down();
    assert!(!dir.exists(), "the directory is gone");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&*dir.to_string_lossy()), "no mount is left: {mounts}");
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for (what, listing) in [
        ("namespace", output("ip", &["netns", "list"])),
        ("link", output("ip", &["link", "show"])),
        ("route", output("ip", &["route", "show", "metric", "60200"])),
        ("nft table", output("nft", &["list", "tables"])),
        ("process", output("pgrep", &["-af", &dir.to_string_lossy()])),
    ] {
        let left = listing.lines().any(|line| {
            line.contains("kontiki-e2e") || line.contains("kontikie2e") || line.starts_with("unreachable")
        });
        assert!(!left, "no {what} is left: {listing}");
    }
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let left = hierarchy.path().join("kontiki-e2e-node-1");
        assert!(!left.exists(), "no cgroup is left: {}", left.display());
    }
}

pub fn first_pod(cluster: &Cluster, selector: &str) -> String {
    let list = cluster.json(&format!("get pods -l {selector}"));
    let running =
        list["items"].as_array().unwrap().iter().find(|pod| {
            pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["phase"] == "Running"
        });
    running.expect("a running pod")["metadata"]["name"].as_str().unwrap().to_string()
}

pub fn sample_image(cluster: &Cluster) -> String {
    let deployment = cluster.json("get deployment hello");
    deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap().to_string()
}
