//! A node of its own for each test: network namespace, containerd, registry, agent; everything below one directory.

#![allow(dead_code, reason = "each test file uses its part of the support")]

pub mod api;

use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kontiki_agent::Options;
use kontiki_agent::ctx::DynNetwork;
use kontiki_proto::api::{Api, DeleteOptions};
use kontiki_proto::{DynApi, Target};
use oci_client::client::{Client, ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::secrets::RegistryAuth;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use api::FakeApi;

pub const REGISTRY: &str = "127.0.0.1:5000";
pub const IMAGE: &str = "127.0.0.1:5000/busybox:1";
const NODE_IP: &str = "10.199.0.1";

pub struct TestNode {
    dir: tempfile::TempDir,
    pub api: FakeApi,
    containerd: Option<Child>,
    registry: Option<Child>,
    agent: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
    cgroup: String,
    networked: bool,
}

/// Runs a test on a node of its own, in a network namespace of its own; says why where it cannot.
pub fn on_a_node<F, T>(networked: bool, test: T)
where
    T: FnOnce(TestNode) -> F + Send + 'static,
    F: Future<Output = TestNode>,
{
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: needs root");
    }
    for program in ["containerd", "runc", "docker-registry", "ip", "nft"] {
        let found =
            Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
        if !found.is_ok_and(|s| s.success()) {
            return println!("skipped: {program} is not installed");
        }
    }
    if !Path::new("/usr/bin/busybox").exists() && !Path::new("/bin/busybox").exists() {
        return println!("skipped: busybox is not installed");
    }
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if std::env::var_os("RUST_LOG").is_some() {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .try_init();
    }
    // All threads of the runtime are children of this one, and so are containerd and the registry.
    std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        sh("ip link set lo up");
        sh(&format!("ip link add kontiki0 type veth peer name kontiki1 && ip link set kontiki1 up && ip addr add {NODE_IP}/24 dev kontiki0 && ip link set kontiki0 up"));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let node = TestNode::new(networked).await;
            let mut node = test(node).await;
            node.end().await;
        });
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn sh(script: &str) {
    let status = Command::new("sh").args(["-c", script]).status().unwrap();
    assert!(status.success(), "{script}");
}

fn wait_for_port(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "port {port} does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A pod network for tests that need none: addresses that lead nowhere.
struct NoNetwork;

#[async_trait::async_trait]
impl kontiki_agent::ctx::PodNetwork for NoNetwork {
    async fn attach(&self, _: &str, _: &Path) -> Result<Vec<IpAddr>, String> {
        Ok(vec!["10.244.0.9".parse().unwrap()])
    }

    async fn detach(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
}

impl TestNode {
    async fn new(networked: bool) -> TestNode {
        let dir = tempfile::Builder::new().prefix("kontiki-test-").tempdir_in("/tmp").unwrap();
        let id = dir.path().file_name().unwrap().to_string_lossy().into_owned();
        let mut node = TestNode {
            dir,
            api: FakeApi::new(),
            containerd: None,
            registry: None,
            agent: None,
            cgroup: id,
            networked,
        };
        node.start_registry();
        node.start_containerd();
        push_busybox().await;
        node.api.put("nodes", json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.244.7.0/24"}}));
        node.api.put("services", json!({"metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}}));
        node
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn start_registry(&mut self) {
        let config = self.path().join("registry.yml");
        let storage = self.path().join("registry");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {REGISTRY}\n",
            storage.display()
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(self.path().join("registry.log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.registry = Some(child);
        wait_for_port(5000);
    }

    pub fn start_containerd(&mut self) {
        let dir = self.path().display();
        let text = format!(
            "version = 2\nroot = \"{dir}/containerd\"\nstate = \"{dir}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = \"{dir}/c.sock\"\n"
        );
        let config = self.path().join("containerd.toml");
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path().join("containerd.log"))
            .unwrap();
        let child = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.containerd = Some(child);
        let socket = self.path().join("c.sock");
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "containerd does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `kill -9`.
    pub fn kill_containerd(&mut self) {
        let mut child = self.containerd.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn options(&self) -> Options {
        Options {
            node_name: "n1".into(),
            servers: Vec::new(),
            root_dir: self.path().join("agent"),
            containerd_socket: self.path().join("c.sock"),
            containerd_namespace: "k8s.io".into(),
            runc_root: self.path().join("runc"),
            cgroup_parent: self.cgroup.clone(),
            ca_pem: String::new(),
            bootstrap_token: None,
            node_ip: NODE_IP.parse().unwrap(),
            logger: PathBuf::from(env!("CARGO_BIN_EXE_kontiki-logger")),
            cluster_dns: "10.96.0.10".parse().unwrap(),
            cluster_domain: "cluster.local".into(),
            labels: Default::default(),
            insecure_registries: vec![REGISTRY.into()],
        }
    }

    pub fn start_agent(&mut self) {
        let shutdown = CancellationToken::new();
        let api: DynApi = Arc::new(self.api.clone());
        let network = (!self.networked).then(|| Arc::new(NoNetwork) as DynNetwork);
        std::fs::create_dir_all(self.options().root_dir).unwrap();
        let running = kontiki_agent::serve(self.options(), api, None, network, shutdown.clone());
        self.agent = Some((shutdown, tokio::spawn(running)));
    }

    pub async fn stop_agent(&mut self) {
        if let Some((shutdown, task)) = self.agent.take() {
            shutdown.cancel();
            task.await.unwrap();
        }
    }

    /// Puts a pod bound to this node into the API, and returns its uid.
    pub fn create_pod(&self, name: &str, spec: Value) -> String {
        let uid = uuid::Uuid::new_v4().to_string();
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        if spec["restartPolicy"].is_null() {
            spec["restartPolicy"] = json!("Always");
        }
        if spec["terminationGracePeriodSeconds"].is_null() {
            spec["terminationGracePeriodSeconds"] = json!(1);
        }
        let mut lists = vec!["containers"];
        lists.push("initContainers");
        for list in lists {
            for c in spec[list].as_array_mut().into_iter().flatten() {
                if c["image"].is_null() {
                    c["image"] = json!(IMAGE);
                }
            }
        }
        self.api.put(
            "pods",
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": "default", "uid": uid, "labels": {"app": name}},
                "spec": spec,
                "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]},
            }),
        );
        uid
    }

    pub fn pod(&self, name: &str) -> Value {
        self.api.get_now("pods", "default", name).unwrap_or_default()
    }

    /// Waits until the pod is as it should be; a pod that never is fails the test with what it is.
    pub async fn pod_until(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let pod = self.pod(name);
            if holds(&pod) {
                return pod;
            }
            if Instant::now() > deadline {
                let events = self.events(name).join("\n");
                panic!("pod {name} is never {what}:\n{:#}\n{events}", pod["status"]);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn ready(&self, name: &str) -> Value {
        self.pod_until(name, "ready", |p| condition(p, "Ready") == "True").await
    }

    pub async fn phase(&self, name: &str, phase: &str) -> Value {
        self.pod_until(name, phase, |p| p["status"]["phase"] == phase).await
    }

    pub fn events(&self, pod: &str) -> Vec<String> {
        self.api
            .all("events")
            .iter()
            .filter(|e| e["involvedObject"]["name"] == pod)
            .map(|e| format!("{} {}", e["reason"].as_str().unwrap(), e["message"].as_str().unwrap()))
            .collect()
    }

    pub async fn delete(&self, name: &str) {
        let target = Target {
            version: "v1".into(),
            resource: "pods".into(),
            namespace: "default".into(),
            name: name.into(),
            ..Target::default()
        };
        self.api.delete(&target, &DeleteOptions::default()).await.unwrap();
        self.pod_until(name, "gone", Value::is_null).await;
    }

    /// The texts of a container's log, without time and stream.
    pub fn log(&self, uid: &str, container: &str, attempt: u32) -> Vec<String> {
        let path = self.options().root_dir.join(format!("pods/{uid}/{container}/{attempt}.log"));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).map(String::from).collect()
    }

    pub async fn log_until(&self, uid: &str, container: &str, wanted: &str) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let lines = self.log(uid, container, 0);
            if lines.iter().any(|l| l.contains(wanted)) {
                return lines;
            }
            assert!(Instant::now() < deadline, "{container} never wrote {wanted}: {lines:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The last records of a pod go right after its object.
    pub async fn leaves_nothing(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.leftovers().is_empty() {
            assert!(Instant::now() < deadline, "left behind: {:#?}", self.leftovers());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What is still on the machine below the node's directory or cgroup.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let pods = self.options().root_dir.join("pods");
        left.extend(
            std::fs::read_dir(&pods).into_iter().flatten().flatten().map(|e| e.path().display().to_string()),
        );
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.path().display().to_string();
        left.extend(
            mounts.lines().filter(|l| l.contains(&dir) && !l.contains("/containerd/")).map(String::from),
        );
        left.extend(self.cgroup_directories().into_iter().flat_map(|d| {
            std::fs::read_dir(d)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|e| e.path().is_dir())
                .map(|e| e.path().display().to_string())
        }));
        for pid in processes() {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .unwrap_or_default()
                .replace('\0', " ");
            if command.contains(&dir)
                && !command.starts_with("containerd --config")
                && !command.starts_with("docker-registry")
            {
                left.push(command);
            }
        }
        left
    }

    fn cgroup_directories(&self) -> Vec<PathBuf> {
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let mut dirs = hierarchies.map(|h| h.path().join(&self.cgroup)).collect::<Vec<_>>();
        dirs.push(Path::new("/sys/fs/cgroup").join(&self.cgroup));
        dirs.into_iter().filter(|d| d.exists()).collect()
    }

    async fn end(&mut self) {
        self.stop_agent().await;
    }
}

pub fn condition(pod: &Value, kind: &str) -> String {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|c| c["type"] == kind).unwrap_or_default();
    found["status"].as_str().unwrap_or_default().into()
}

pub fn container(pod: &Value, index: usize) -> &Value {
    &pod["status"]["containerStatuses"][index]
}

fn processes() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// Whatever the test did: nothing of it stays on the machine.
impl Drop for TestNode {
    fn drop(&mut self) {
        if let Some((shutdown, task)) = self.agent.take() {
            shutdown.cancel();
            task.abort();
        }
        for child in [self.containerd.take(), self.registry.take()].into_iter().flatten() {
            let mut child = child;
            let _ = child.kill();
            let _ = child.wait();
        }
        let dir = self.path().display().to_string();
        for pid in processes() {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            if command.contains(&dir) || cgroups.contains(&self.cgroup) {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
        std::thread::sleep(Duration::from_millis(100));
        for point in kontiki_agent::pod::sandbox::mounts_below(self.path()) {
            let _ = nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH);
        }
        kontiki_agent::runtime::cgroup::remove(&self.cgroup);
    }
}

/// An image of Debian's static busybox, pushed to the test's registry.
async fn push_busybox() {
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].iter().find_map(|p| std::fs::read(p).ok()).unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    let mut add = |path: &str, mode: u32, data: &[u8]| {
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        header.set_cksum();
        tar.append_data(&mut header, path, data).unwrap();
    };
    add("bin/busybox", 0o755, &busybox);
    add("etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n");
    add("etc/group", 0o644, b"root:x:0:\nweb:x:34:\n");
    add("www/index.html", 0o644, b"hello\n");
    for applet in [
        "sh", "sleep", "cat", "echo", "httpd", "nc", "wget", "ls", "id", "hostname", "env", "true", "false",
        "touch", "rm", "kill", "stat", "seq", "head", "tail", "nslookup", "mkdir", "test", "grep", "dd",
        "ps", "stty", "wc",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let plain = tar.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &plain).unwrap();
    let layer = gzip.finish().unwrap();
    let diff_id = format!("sha256:{}", hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&plain)));
    let config = json!({
        "architecture": kontiki_agent::image::architecture(), "os": "linux",
        "config": {"Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["sh", "-c", "echo default command; sleep 3600"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    });
    let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
    let layers = [ImageLayer::oci_v1_gzip(layer, None)];
    let config = Config::oci_v1(serde_json::to_vec(&config).unwrap(), None);
    client.push(&IMAGE.parse().unwrap(), &layers, config, &RegistryAuth::Anonymous, None).await.unwrap();
}
