//! Pods on a real containerd, through the whole agent, with an API in memory. Needs root.

mod support;

use std::time::Duration;

use serde_json::json;
use support::{condition, container, on_a_node};

/// From the pull to the last trace: environment, volumes, log, readiness, deletion.
#[test]
fn root_a_pod_runs_and_leaves_nothing_behind() {
    on_a_node(false, |mut node| async move {
        node.start_agent();
        node.api.put(
            "configmaps",
            json!({"metadata": {"name": "conf", "namespace": "default"},
            "data": {"color": "blue", "file.txt": "from a map"}}),
        );
        node.api.put(
            "secrets",
            json!({"metadata": {"name": "sec", "namespace": "default"},
            "data": {"password": "aHVzaA=="}}),
        );
        let script = "echo $COLOR $PASS $FROM_IMAGE $KUBERNETES_SERVICE_HOST $POD $(hostname) $1; \
            cat /conf/file.txt; echo; cat /sec/password; echo; cat /var/run/token/token; echo; \
            echo shared > /scratch/x; id -u; id -g; cat /labels; echo; echo done; exec sleep 3600";
        let uid = node.create_pod("full", json!({
            "securityContext": {"runAsUser": 33, "fsGroup": 77},
            "volumes": [
                {"name": "conf", "configMap": {"name": "conf"}},
                {"name": "sec", "secret": {"secretName": "sec"}},
                {"name": "scratch", "emptyDir": {}},
                {"name": "memory", "emptyDir": {"medium": "Memory"}},
                {"name": "token", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                    {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}},
            ],
            "containers": [{
                "name": "c",
                "command": ["sh", "-c", script, "--", "$(COLOR)-arg"],
                "env": [
                    {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "color"}}},
                    {"name": "PASS", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "password"}}},
                    {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ],
                "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
                "readinessProbe": {"exec": {"command": ["cat", "/scratch/x"]}, "periodSeconds": 1},
                "volumeMounts": [
                    {"name": "conf", "mountPath": "/conf", "readOnly": true},
                    {"name": "sec", "mountPath": "/sec"},
                    {"name": "scratch", "mountPath": "/scratch"},
                    {"name": "memory", "mountPath": "/memory"},
                    {"name": "token", "mountPath": "/var/run/token"},
                    {"name": "token", "mountPath": "/labels", "subPath": "labels"},
                ],
            }],
        }));
        let pod = node.ready("full").await;
        let status = &pod["status"];
        assert_eq!(status["phase"], "Running");
        assert_eq!(status["podIP"], "10.244.0.9");
        assert_eq!(status["hostIP"], "10.199.0.1");
        assert_eq!(status["qosClass"], "Guaranteed");
        assert_eq!(condition(&pod, "PodScheduled"), "True");
        let c = container(&pod, 0);
        assert!(c["imageID"].as_str().unwrap().starts_with("127.0.0.1:5000/busybox@sha256:"));
        assert!(c["containerID"].as_str().unwrap().starts_with("containerd://"));
        assert_eq!((&c["restartCount"], &c["started"]), (&json!(0), &json!(true)));

        let lines = node.log_until(&uid, "c", "done").await;
        let expected =
            ["blue hush yes 10.96.0.1 full full blue-arg", "from a map", "hush", "a-token", "33", "34"];
        assert_eq!(&lines[..6], expected);
        assert!(lines.contains(&"app=\"full\"".to_string()), "{lines:?}");

        let limit = format!(
            "/sys/fs/cgroup/memory/{}/pod{uid}/{}/memory.limit_in_bytes",
            node.options().cgroup_parent,
            &c["containerID"].as_str().unwrap()["containerd://".len()..]
        );
        if let Ok(limit) = std::fs::read_to_string(limit) {
            assert_eq!(limit.trim(), (64 << 20).to_string());
        }
        let events = node.events("full");
        for reason in ["Pulling ", "Pulled Successfully", "Created ", "Started "] {
            assert!(events.iter().any(|e| e.starts_with(reason)), "{reason}: {events:?}");
        }
        node.delete("full").await;
        node.leaves_nothing().await;
        node
    });
}

/// Ends, restarts, back-off, init containers, and what is told about them.
#[test]
fn root_containers_end_and_restart_as_the_policy_says() {
    on_a_node(false, |mut node| async move {
        node.start_agent();
        let sh = |name: &str, script: &str| json!({"name": name, "command": ["sh", "-c", script]});
        node.create_pod("good", json!({"restartPolicy": "Never", "containers": [sh("c", "true")]}));
        node.create_pod(
            "bad",
            json!({"restartPolicy": "Never",
            "containers": [sh("c", "echo last words > /dev/termination-log; exit 3")]}),
        );
        node.create_pod("crash", json!({"containers": [sh("c", "exit 1")]}));
        node.create_pod(
            "absent",
            json!({"restartPolicy": "Never",
            "containers": [{"name": "c", "command": ["/no/such/program"]}]}),
        );
        let oom = json!({"restartPolicy": "Never", "containers": [{"name": "c",
            "command": ["sh", "-c", "exec head -c 200m /dev/zero | tail"], "resources": {"limits": {"memory": "16Mi"}}}]});
        node.create_pod("oom", oom);
        let init = node.create_pod("init", json!({
            "volumes": [{"name": "v", "emptyDir": {}}],
            "initContainers": [
                {"name": "one", "command": ["sh", "-c", "echo one >> /v/order"], "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
                {"name": "side", "restartPolicy": "Always", "command": ["sleep", "3600"]},
                {"name": "two", "command": ["sh", "-c", "echo two >> /v/order"], "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
            ],
            "containers": [{"name": "c", "command": ["sh", "-c", "cat /v/order; exec sleep 3600"], "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        }));
        node.create_pod(
            "nomap",
            json!({"containers": [{"name": "c", "command": ["true"],
            "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k"}}}]}]}),
        );
        node.create_pod("noimage", json!({"containers": [{"name": "c", "image": "127.0.0.1:5000/none:1"}]}));

        let good = node.phase("good", "Succeeded").await;
        assert_eq!(container(&good, 0)["state"]["terminated"]["reason"], "Completed");
        let bad = node.phase("bad", "Failed").await;
        let end = &container(&bad, 0)["state"]["terminated"];
        assert_eq!((&end["exitCode"], &end["message"]), (&json!(3), &json!("last words\n")));
        let absent = node.phase("absent", "Failed").await;
        assert_eq!(container(&absent, 0)["state"]["terminated"]["reason"], "StartError");
        let oom = node.pod_until("oom", "over", |p| !container(p, 0)["state"]["terminated"].is_null()).await;
        println!("{}", container(&oom, 0)["state"]);
        node.ready("init").await;
        assert_eq!(node.log_until(&init, "c", "two").await, ["one", "two"]);
        let crash = node
            .pod_until("crash", "in back-off", |p| {
                container(p, 0)["state"]["waiting"]["reason"] == "CrashLoopBackOff"
            })
            .await;
        let c = container(&crash, 0);
        assert_eq!((&c["restartCount"], &c["lastState"]["terminated"]["exitCode"]), (&json!(1), &json!(1)));
        assert!(
            c["state"]["waiting"]["message"]
                .as_str()
                .unwrap()
                .starts_with("back-off 10s restarting failed container=c")
        );
        node.pod_until("nomap", "refused", |p| {
            container(p, 0)["state"]["waiting"]["reason"] == "CreateContainerConfigError"
        })
        .await;
        node.pod_until("noimage", "refused", |p| {
            container(p, 0)["state"]["waiting"]["reason"] == "ImagePullBackOff"
        })
        .await;
        for name in ["good", "bad", "crash", "absent", "oom", "init", "nomap", "noimage"] {
            node.delete(name).await;
        }
        node.leaves_nothing().await;
        node
    });
}

/// Agent and containerd come and go, and so do the servers: the containers stay the same ones.
#[test]
fn root_pods_outlive_the_agent_containerd_and_the_servers() {
    on_a_node(false, |mut node| async move {
        node.start_agent();
        let uid = node.create_pod(
            "stay",
            json!({"containers": [{"name": "c",
            "command": ["sh", "-c", "i=0; while true; do echo $i; i=$((i+1)); sleep 0.1; done"]}]}),
        );
        let identity = |p: &serde_json::Value| {
            let c = container(p, 0);
            (c["containerID"].clone(), c["state"]["running"]["startedAt"].clone(), c["restartCount"].clone())
        };
        let before = identity(&node.ready("stay").await);

        node.stop_agent().await;
        let written = node.log(&uid, "c", 0).len();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(node.log(&uid, "c", 0).len() > written, "the log goes on without the agent");
        // The end of one pod while nobody looks is found later.
        node.start_agent();
        node.create_pod("other", json!({"containers": [{"name": "c"}]}));
        node.ready("other").await;
        assert_eq!(identity(&node.ready("stay").await), before);

        node.kill_containerd();
        tokio::time::sleep(Duration::from_millis(300)).await;
        node.start_containerd();
        node.create_pod("third", json!({"containers": [{"name": "c"}]}));
        node.ready("third").await;
        assert_eq!(identity(&node.ready("stay").await), before);

        // A node that starts while all servers are away goes on with what it knows.
        node.api.set_away(true);
        node.stop_agent().await;
        node.start_agent();
        tokio::time::sleep(Duration::from_millis(500)).await;
        node.api.set_away(false);
        node.create_pod("fourth", json!({"containers": [{"name": "c"}]}));
        node.ready("fourth").await;
        assert_eq!(identity(&node.ready("stay").await), before);

        for name in ["stay", "other", "third", "fourth"] {
            node.delete(name).await;
        }
        node.leaves_nothing().await;
        node
    });
}

/// Processes in running containers, as `kubectl exec` needs them: output apart, input, a terminal with a size, exit codes.
#[test]
fn root_processes_run_in_containers() {
    use kontiki_agent::runtime::Containerd;
    use kontiki_agent::stream::exec::{self, Output, Wanted};
    use tokio::io::AsyncWriteExt;

    on_a_node(false, |mut node| async move {
        node.start_agent();
        node.create_pod(
            "e",
            json!({"containers": [{"name": "c", "command": ["sleep", "3600"],
            "env": [{"name": "OWN", "value": "mine"}]}]}),
        );
        let pod = node.ready("e").await;
        let id = container(&pod, 0)["containerID"].as_str().unwrap()["containerd://".len()..].to_string();
        let options = node.options();
        let containerd =
            Containerd::new(&options.containerd_socket, &options.containerd_namespace, &options.runc_root);
        let sh = |script: &str| ["sh", "-c", script].map(String::from).to_vec();
        let run = async |script: &str| {
            exec::run(&containerd, &options.root_dir, &id, &sh(script), Duration::from_secs(10))
                .await
                .unwrap()
        };
        assert_eq!(run("echo $OWN; exit 3").await, (3, "mine\n".to_string()));
        let many = run("seq 1 2000").await;
        assert_eq!((many.0, many.1.lines().count()), (0, 2000));
        let late =
            exec::run(&containerd, &options.root_dir, &id, &sh("sleep 60"), Duration::from_secs(1)).await;
        assert!(late.unwrap_err().message.contains("timed out"));

        let talk = async |wanted: Wanted, input: &str, size: Option<(u32, u32)>| {
            let (mut process, mut outputs, finish) =
                exec::start(&containerd, &options.root_dir, &id, &wanted).await.unwrap();
            if let Some((width, height)) = size {
                process.resize(width, height).await.unwrap();
            }
            if let Some(stdin) = &mut process.stdin {
                stdin.write_all(input.as_bytes()).await.unwrap();
            }
            if !wanted.tty {
                process.close_stdin().await.unwrap();
            }
            let reader = tokio::spawn(async move {
                let (mut out, mut err) = (Vec::new(), Vec::new());
                while let Some(part) = outputs.recv().await {
                    match part {
                        Output::Stdout(data) => out.extend(data),
                        Output::Stderr(data) => err.extend(data),
                    }
                }
                (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
            });
            let code = tokio::time::timeout(Duration::from_secs(20), process.wait()).await.unwrap().unwrap();
            process.clean().await;
            drop(finish);
            let (out, err) = reader.await.unwrap();
            (code, out, err)
        };
        let both = Wanted { command: sh("cat; echo oops >&2; exit 4"), stdin: true, tty: false };
        assert_eq!(talk(both, "hello\n", None).await, (4, "hello\n".to_string(), "oops\n".to_string()));
        let terminal =
            Wanted { command: sh("sleep 1; stty size; read x; echo got $x"), stdin: true, tty: true };
        let (code, out, _) = talk(terminal, "word\n", Some((91, 33))).await;
        assert_eq!(code, 0);
        assert!(out.contains("33 91") && out.contains("got word"), "{out:?}");
        node.delete("e").await;
        node.leaves_nothing().await;
        node
    });
}

/// On the real pod network: probes by HTTP and TCP, a failing readiness, a failing liveness, hooks, names.
#[test]
fn root_probes_and_hooks_act_on_the_pod_network() {
    on_a_node(true, |mut node| async move {
        node.start_agent();
        let web = |extra: serde_json::Value| {
            let mut c = json!({"name": "c", "command": ["httpd", "-f", "-p", "8080", "-h", "/www"],
                "ports": [{"name": "http", "containerPort": 8080}]});
            c.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            json!({"containers": [c]})
        };
        let http = |path: &str| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": 1, "failureThreshold": 1});
        node.create_pod(
            "web",
            web(json!({
                "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                "readinessProbe": http("/index.html"),
                "lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "echo hooked > /hooked"]}},
                    "preStop": {"exec": {"command": ["touch", "/stopping"]}}},
            })),
        );
        node.create_pod("unready", web(json!({"readinessProbe": http("/none")})));
        node.create_pod("unwell", web(json!({"livenessProbe": http("/none")})));
        let web = node.ready("web").await;
        assert!(web["status"]["podIP"].as_str().unwrap().starts_with("10.244.7."));
        let unready =
            node.pod_until("unready", "running", |p| !container(p, 0)["state"]["running"].is_null()).await;
        assert_eq!(condition(&unready, "Ready"), "False");
        node.pod_until("unwell", "restarted", |p| container(p, 0)["restartCount"] == 1).await;
        let events = node.events("unwell").join("\n");
        assert!(
            events.contains("Unhealthy Liveness probe failed: HTTP probe failed with statuscode: 404"),
            "{events}"
        );
        assert!(events.contains("Killing Container c failed liveness probe, will be restarted"), "{events}");
        for name in ["web", "unready", "unwell"] {
            node.delete(name).await;
        }
        node.leaves_nothing().await;
        node
    });
}
