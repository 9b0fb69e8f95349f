//! Backup, restore and recovery with the program itself: one real server, and its command line.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use kontiki_cli::pki::{Pki, Subject};
use serde_json::{Value, json};

struct Host {
    dir: tempfile::TempDir,
    api: String,
    peer: String,
}

/// A running server; killed when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl Host {
    fn new() -> Host {
        Host { dir: tempfile::tempdir().unwrap(), api: free_address(), peer: free_address() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&self, data: &Path) -> Server {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_kontiki"))
            .args(["server", "--listen", &self.api, "--peer-listen", &self.peer, "--data-dir"])
            .arg(data)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Server(child);
        let deadline = Instant::now() + Duration::from_secs(120);
        while !data.join("pki/ca.crt").exists() {
            assert!(
                Instant::now() < deadline,
                "no keys: {}",
                std::fs::read_to_string(self.path("log")).unwrap()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        for (user, group) in [("admin", "system:masters"), ("somebody", "some-group")] {
            self.write_kubeconfig(data, user, group);
        }
        while !self.run("admin", &["get", "namespace", "default"]).status.success() {
            assert!(
                Instant::now() < deadline,
                "not up: {}",
                std::fs::read_to_string(self.path("log")).unwrap()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }

    fn write_kubeconfig(&self, data: &Path, user: &str, group: &str) {
        let pki = Pki::open(&data.join("pki")).unwrap();
        let identity = pki.issue(&Subject::User(user, group)).unwrap();
        let (cert, key) = (self.path(&format!("{user}.crt")), self.path(&format!("{user}.key")));
        std::fs::write(&cert, identity.cert_pem).unwrap();
        std::fs::write(&key, identity.key_pem).unwrap();
        let ca = data.join("pki/ca.crt");
        let kubeconfig = json!({
            "current-context": "it",
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "clusters": [{"name": "it", "cluster": {"server": format!("https://{}", self.api), "certificate-authority": ca}}],
            "users": [{"name": "it", "user": {"client-certificate": cert, "client-key": key}}],
        });
        std::fs::write(self.path(&format!("{user}.kubeconfig")), kubeconfig.to_string()).unwrap();
    }

    fn run(&self, user: &str, args: &[&str]) -> Output {
        let kubeconfig = self.path(&format!("{user}.kubeconfig"));
        Command::new(env!("CARGO_BIN_EXE_kontiki"))
            .current_dir(self.dir.path())
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(args)
            .output()
            .unwrap()
    }

    #[track_caller]
    fn done(&self, args: &[&str]) -> String {
        let output = self.run("admin", args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        text(&output)
    }

    #[track_caller]
    fn refused(&self, args: &[&str], words: &str) {
        let output = self.run("admin", args);
        assert!(!output.status.success(), "{args:?} was not refused: {}", text(&output));
        assert!(text(&output).contains(words), "{args:?}: {}", text(&output));
    }

    fn cluster_id(&self) -> String {
        let status: Value = serde_json::from_str(&self.done(&["cluster", "status", "-o", "json"])).unwrap();
        status["cluster_id"].as_str().unwrap().to_string()
    }
}

#[test]
fn a_cluster_is_backed_up_restored_and_recovered() {
    let host = Host::new();
    let (first, second) = (host.path("first"), host.path("second"));
    let server = host.start(&first);
    host.done(&["create", "configmap", "kept", "--from-literal=a=b"]);
    let old = host.cluster_id();

    // The backup, and its check.
    let said = host.done(&["cluster", "backup", "good"]);
    assert!(said.contains(&old) && said.contains("at revision"), "{said}");
    assert!(host.done(&["cluster", "verify", "good"]).contains("good: whole"));
    assert_eq!(std::fs::metadata(host.path("good")).unwrap().permissions().mode() & 0o777, 0o600);
    host.refused(&["cluster", "backup", "good"], "exists already");
    let streamed = host.run("admin", &["cluster", "backup", "-"]);
    assert!(streamed.status.success());
    std::fs::write(host.path("streamed"), &streamed.stdout).unwrap();
    host.done(&["cluster", "verify", "streamed"]);
    let mut damaged = streamed.stdout.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(host.path("damaged"), &damaged).unwrap();
    std::fs::write(host.path("cut"), &streamed.stdout[..middle]).unwrap();
    host.refused(&["cluster", "verify", "damaged"], "is damaged at byte");
    host.refused(&["cluster", "verify", "cut"], "is not whole");

    // Not for everybody, and then no file is left.
    let output = host.run("somebody", &["cluster", "backup", "stolen"]);
    assert!(!output.status.success() && text(&output).contains("Forbidden"), "{}", text(&output));
    assert!(!host.path("stolen").exists() && !host.path("stolen.unfinished").exists());
    host.refused(&["cluster", "leave", "1"], "last voter");
    host.refused(&["cluster", "replace", "1", "--with", "127.0.0.1:1"], "is alive");

    // Restored elsewhere.
    drop(server);
    let (first_dir, second_dir) = (first.to_str().unwrap(), second.to_str().unwrap());
    host.refused(&["cluster", "restore", "good", "--data-dir", first_dir], "is not empty");
    host.refused(&["cluster", "restore", "good", "--data-dir", second_dir], "--new-authority");
    std::fs::create_dir_all(second.join("pki")).unwrap();
    for name in ["ca.crt", "ca.key", "sa.key"] {
        std::fs::copy(first.join("pki").join(name), second.join("pki").join(name)).unwrap();
    }
    host.refused(&["cluster", "restore", "damaged", "--data-dir", second_dir], "is damaged at byte");
    host.done(&["cluster", "restore", "good", "--data-dir", second_dir]);
    let server = host.start(&second);
    host.done(&["get", "configmap", "kept"]);
    let restored = host.cluster_id();
    assert_ne!(restored, old);
    host.done(&["create", "configmap", "newer", "--from-literal=a=b"]);

    // Recovered in place.
    let recover = ["cluster", "recover", "--data-dir", second_dir];
    host.refused(&recover, "is in use");
    drop(server);
    host.refused(&recover, "last log entry: index");
    host.refused(&recover, "nothing was done");
    let confirmed = [&recover[..], &["--i-know-that-unreplicated-writes-may-be-lost"]].concat();
    let said = host.done(&confirmed);
    assert!(
        said.contains("store.before-recovery") && second.join("store.before-recovery").is_dir(),
        "{said}"
    );
    let _server = host.start(&second);
    host.done(&["get", "configmap", "kept"]);
    host.done(&["get", "configmap", "newer"]);
    assert_ne!(host.cluster_id(), restored);
}
