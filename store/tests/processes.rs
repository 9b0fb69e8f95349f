//! Three servers as processes of their own, killed without warning. This test program starts itself again as a server.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::*;
use kontiki_store::*;

const ROLE: &str = "KONTIKI_STORE_TEST_SERVER";

/// Not a test of its own: what the child processes run. Reads `put KEY VALUE`, `get KEY`, `leader` lines.
#[test]
fn server() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut parts = role.split(' ');
    let mut next = || parts.next().unwrap().to_string();
    let (dir, address, join, tls) = (PathBuf::from(next()), next(), next(), PathBuf::from(next()));
    let read = |name: &str| std::fs::read_to_string(tls.join(name)).unwrap();
    let tls = PeerTls { ca_pem: read("ca"), cert_pem: read("cert"), key_pem: read("key") };
    let start = if join == "-" { Start::Bootstrap } else { Start::Join(vec![join]) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut config = config(&dir, &address, start, tls);
    config.timings.request = Duration::from_secs(5);
    let store = runtime.block_on(Store::open(config)).unwrap();
    println!("reply open");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let reply = match words[0] {
            "put" => {
                let txn = Txn { guards: vec![], ops: vec![put(words[1], words[2].to_string())] };
                match runtime.block_on(store.propose(txn)) {
                    Ok(Outcome::Committed { revision }) => format!("ok {revision}"),
                    other => format!("error {other:?}"),
                }
            }
            "get" => {
                runtime.block_on(store.barrier()).unwrap();
                format!("{:?}", value(&store, words[1]))
            }
            "leader" => store.is_leader().to_string(),
            "voters" => {
                let status = runtime.block_on(store.status());
                status.members.iter().filter(|member| member.voter).count().to_string()
            }
            other => panic!("{other}"),
        };
        println!("reply {reply}");
    }
}

struct Process {
    child: Child,
    input: ChildStdin,
    replies: Receiver<String>,
}

impl Process {
    fn start(dir: &std::path::Path, address: &str, join: &str, tls: &std::path::Path) -> Process {
        let role = format!("{} {address} {join} {}", dir.display(), tls.display());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["server", "--exact", "--nocapture"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (said, replies) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The harness prints before and between; a reply may stand behind its words.
                if let Some((_, reply)) = line.split_once("reply ")
                    && said.send(reply.to_string()).is_err()
                {
                    return;
                }
            }
        });
        let process = Process { child, input, replies };
        assert_eq!(process.reply(), "open");
        process
    }

    fn reply(&self) -> String {
        self.replies.recv_timeout(Duration::from_secs(60)).expect("the server answers")
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        self.input.flush().unwrap();
        self.reply()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already dead is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn leader(processes: &mut [Option<Process>]) -> usize {
    for _ in 0..400 {
        for (number, process) in processes.iter_mut().enumerate() {
            if process.as_mut().is_some_and(|process| process.ask("leader") == "true") {
                return number;
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no server leads");
}

/// `kill -9` of one leader after the other, and of all at once: what was acknowledged is there. Prints how long the
/// cluster took to acknowledge again.
#[test]
fn leaders_are_killed_and_nothing_acknowledged_is_lost() {
    let authority = Authority::new();
    let tls = tempfile::tempdir().unwrap();
    let PeerTls { ca_pem, cert_pem, key_pem } = authority.peer();
    for (name, pem) in [("ca", ca_pem), ("cert", cert_pem), ("key", key_pem)] {
        std::fs::write(tls.path().join(name), pem).unwrap();
    }
    let dirs: Vec<tempfile::TempDir> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let addresses: Vec<String> = (0..3).map(|_| free_address()).collect();
    let start = |number: usize| {
        let join = if number == 0 { "-" } else { addresses[0].as_str() };
        Process::start(dirs[number].path(), &addresses[number], join, tls.path())
    };
    let mut processes: Vec<Option<Process>> = (0..3).map(|number| Some(start(number))).collect();
    while processes[0].as_mut().unwrap().ask("voters") != "3" {
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut acknowledged = Vec::new();
    let mut written = 0;
    for round in 0..4 {
        let leading = leader(&mut processes);
        let asked = (leading + 1) % 3;
        for _ in 0..20 {
            written += 1;
            let key = format!("/{written}");
            if processes[asked].as_mut().unwrap().ask(&format!("put {key} x")).starts_with("ok") {
                acknowledged.push(key);
            }
        }
        processes[leading].as_mut().unwrap().kill();
        let killed = Instant::now();
        loop {
            written += 1;
            let key = format!("/{written}");
            if processes[asked].as_mut().unwrap().ask(&format!("put {key} x")).starts_with("ok") {
                acknowledged.push(key);
                break;
            }
        }
        println!("round {round}: acknowledged again after {:?}", killed.elapsed());
        processes[leading] = Some(start(leading));
    }
    processes.iter_mut().flatten().for_each(Process::kill);
    let mut processes: Vec<Option<Process>> = (0..3).map(|number| Some(start(number))).collect();
    for process in processes.iter_mut().flatten() {
        for key in &acknowledged {
            assert_eq!(
                process.ask(&format!("get {key}")),
                "Some(\"x\")",
                "{key} was acknowledged and is gone"
            );
        }
    }
    assert!(acknowledged.len() >= 84);
}
