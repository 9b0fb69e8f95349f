//! A cluster made by `kontiki up`, and the programs a person would use on it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

const KONTIKI: &str = env!("CARGO_BIN_EXE_kontiki");

/// Names, ports and network of its own, so that it stands beside a developer's cluster.
pub struct Cluster {
    dir: tempfile::TempDir,
}

impl Cluster {
    /// Empty, with a cluster name no other test uses.
    pub fn new() -> Cluster {
        Cluster { dir: tempfile::Builder::new().prefix("kontiki-e2e-").tempdir().unwrap() }
    }

    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    pub fn up(&self) -> Output {
        let dir = self.dir();
        let output = Command::new(KONTIKI)
            .args(["up", "--name", "e2e", "--port", "16443", "--lan", "200", "--node-grace-seconds", "8"])
            .arg("--dir")
            .arg(&dir)
            .output()
            .unwrap();
        assert!(output.status.success(), "kontiki up: {}\n{}", text(&output), self.logs());
        output
    }

    pub fn down(&self) {
        let output = Command::new(KONTIKI).args(["down", "--dir"]).arg(self.dir()).output().unwrap();
        assert!(output.status.success(), "kontiki down: {}", text(&output));
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        Command::new(program)
            .args(arguments)
            .env("KUBECONFIG", self.dir().join("kubeconfig"))
            .env("HOME", self.dir.path())
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    /// What kubectl prints.
    pub fn kubectl(&self, line: &str) -> String {
        let output = self.try_kubectl(line);
        assert!(output.status.success(), "kubectl {line}: {}\n{}", text(&output), self.logs());
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn try_kubectl(&self, line: &str) -> Output {
        self.run("kubectl", &words(line))
    }

    /// What our own command line prints.
    pub fn kontiki(&self, line: &str) -> String {
        let output = self.run(KONTIKI, &words(line));
        assert!(output.status.success(), "kontiki {line}: {}\n{}", text(&output), self.logs());
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.kubectl(&format!("{line} -o json"))).unwrap()
    }

    pub fn members(&self) -> Vec<Value> {
        let status: Value = serde_json::from_str(&self.kontiki("cluster status -o json")).unwrap();
        status["members"].as_array().unwrap().clone()
    }

    pub fn leader(&self) -> Value {
        eventually("a server leads", || self.members().into_iter().find(|m| m["leader"] == true))
    }

    /// Writes a stream of JSON documents, as kubectl reads them, and returns its path.
    pub fn manifest(&self, name: &str, documents: &[Value]) -> String {
        let path = self.dir.path().join(name);
        let text: Vec<String> = documents.iter().map(ToString::to_string).collect();
        std::fs::write(&path, text.join("\n")).unwrap();
        path.to_string_lossy().into_owned()
    }

    pub fn pid_of(&self, daemon: &str) -> i32 {
        let path = self.dir().join("run").join(format!("{daemon}.pid"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        text.split_whitespace().next().unwrap().parse().unwrap()
    }

    pub fn kill(&self, daemon: &str) {
        kill(self.pid_of(daemon));
    }

    /// Every running container of a node: id to start time of its process, in clock ticks since boot.
    pub fn containers(&self, node: &str) -> Vec<(String, u64)> {
        let socket = self.dir().join(node).join("containerd.sock");
        let listed = self.run("ctr", &["-a", &socket.to_string_lossy(), "-n", "k8s.io", "tasks", "list"]);
        assert!(listed.status.success(), "ctr: {}", text(&listed));
        let mut found: Vec<_> = String::from_utf8(listed.stdout)
            .unwrap()
            .lines()
            .skip(1)
            .filter_map(|line| {
                let mut columns = line.split_whitespace();
                let (id, pid, state) = (columns.next()?, columns.next()?, columns.next()?);
                (state == "RUNNING").then(|| (id.to_string(), start_time(pid)))
            })
            .collect();
        found.sort();
        found
    }

    /// The ends of all logs, for a failure's message.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        let Ok(entries) = std::fs::read_dir(self.dir().join("logs")) else { return all };
        for entry in entries.flatten() {
            let content = std::fs::read(entry.path()).unwrap_or_default();
            let content = String::from_utf8_lossy(&content);
            let lines: Vec<&str> = content.lines().collect();
            let tail = lines[lines.len().saturating_sub(15)..].join("\n");
            all += &format!("\n--- {}\n{tail}\n", entry.file_name().to_string_lossy());
        }
        all
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let _ = Command::new(KONTIKI).args(["down", "--dir"]).arg(self.dir()).output();
    }
}

pub fn kill(pid: i32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(status.success(), "kill -9 {pid}");
}

fn start_time(pid: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_whitespace().nth(19).and_then(|field| field.parse().ok()).unwrap_or(0)
}

/// Splits at blanks; `'…'` keeps them.
fn words(line: &str) -> Vec<&str> {
    line.split('\'')
        .enumerate()
        .flat_map(|(at, part)| if at % 2 == 1 { vec![part] } else { part.split_whitespace().collect() })
        .collect()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Polls until there is something, for two minutes at most.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Why the end-to-end tests cannot run here; CI runs as root, where they must.
pub fn reason_to_skip() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("they need root for namespaces and containers");
    }
    if !["containerd", "kubectl", "nft"].iter().all(|program| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .chain([PathBuf::from("/usr/sbin")])
            .any(|dir: PathBuf| Path::new(&dir).join(program).is_file())
    }) {
        return Some("containerd, kubectl or nft is not installed: run make setup");
    }
    None
}
