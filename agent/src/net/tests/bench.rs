//! Network namespaces to test in: nameless, so that the kernel takes each back when its last user is gone.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_server::proto::op::{Message, MessageType, OpCode, Query};
use hickory_server::proto::rr::{Name, RecordType};
use nix::sched::{CloneFlags, setns, unshare};

pub const PATIENCE: Duration = Duration::from_secs(15);

/// Whether the test may run; says so where it may not.
pub fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: needs root for network namespaces");
    }
    root
}

#[derive(Clone)]
pub struct Netns {
    file: Arc<File>,
}

impl Netns {
    pub fn new() -> Netns {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let netns = Netns { file: Arc::new(made.join().unwrap()) };
        netns.ip("link set lo up");
        netns
    }

    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Runs `work` on a thread of its own in the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let file = Arc::clone(&self.file);
        std::thread::spawn(move || {
            setns(&*file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// The same, waited for without blocking the runtime.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = tokio::sync::oneshot::channel();
        self.spawn(move || drop(done.send(work())));
        result.await.unwrap()
    }

    /// A node's process: its own runtime, all of whose threads are in the namespace.
    pub fn block_on<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let thread = self.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(work)
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub fn ip(&self, arguments: &str) {
        let arguments = arguments.to_owned();
        let status = self.spawn(move || Command::new("ip").args(arguments.split(' ')).status().unwrap());
        assert!(status.join().unwrap().success());
    }

    /// An interface with the node's address.
    pub fn with_address(address: &str) -> Netns {
        let netns = Netns::new();
        netns.ip("link add kontiki-t type bridge");
        netns.ip(&format!("addr add {address}/24 dev kontiki-t"));
        netns.ip("link set kontiki-t up");
        netns
    }

    /// Answers every TCP connection with `name` and what the client sent, line by line, for the rest of the test.
    pub fn serve(&self, address: Ipv4Addr, port: u16, name: &'static str) {
        let listening = self.spawn(move || TcpListener::bind((address, port)).unwrap());
        let listener = listening.join().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut writer = stream.try_clone().unwrap();
                    for line in BufReader::new(stream).lines().map_while(Result::ok) {
                        if writeln!(writer, "{name} {line}").is_err() {
                            return;
                        }
                    }
                });
            }
        });
    }

    /// Who answers a TCP connection, or what kind of error comes.
    pub async fn call(&self, address: Ipv4Addr, port: u16) -> String {
        self.run(move || {
            let to = SocketAddr::from((address, port));
            match TcpStream::connect_timeout(&to, Duration::from_secs(3)) {
                Ok(stream) => talk(&stream).split(' ').next().unwrap_or_default().to_owned(),
                Err(error) => format!("{:?}", error.kind()),
            }
        })
        .await
    }

    pub async fn connect(&self, address: Ipv4Addr, port: u16) -> TcpStream {
        self.run(move || TcpStream::connect_timeout(&(address, port).into(), Duration::from_secs(3)).unwrap())
            .await
    }

    /// A DNS answer: `CODE record record …`.
    pub async fn resolve(&self, server: Ipv4Addr, name: &'static str, tcp: bool) -> String {
        self.run(move || {
            let mut question = Message::new(77, MessageType::Query, OpCode::Query);
            question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
            let bytes = question.to_vec().unwrap();
            let answer = if tcp {
                let mut stream = TcpStream::connect((server, 53)).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let length = u16::try_from(bytes.len()).unwrap();
                stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut answer = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut answer).unwrap();
                answer
            } else {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.send_to(&bytes, (server, 53)).unwrap();
                let mut answer = vec![0; 2048];
                let (length, from) = socket.recv_from(&mut answer).unwrap();
                assert_eq!(from.ip(), server);
                answer.truncate(length);
                answer
            };
            let message = Message::from_vec(&answer).unwrap();
            let mut words = vec![format!("{:?}", message.metadata.response_code)];
            words.extend(message.answers.iter().map(|record| record.data.to_string()));
            words.sort();
            words.join(" ")
        })
        .await
    }
}

/// Sends a line and returns the answer.
pub fn talk(stream: &TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut writer = stream.try_clone().unwrap();
    writeln!(writer, "hello").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

/// Asks again until the answer is as expected; the last answer is in the panic.
#[track_caller]
pub fn until<F: Future<Output = String>>(
    expected: &str,
    mut ask: impl FnMut() -> F,
) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        loop {
            let found = ask().await;
            if found == expected {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{caller}: {found:?} instead of {expected:?}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}
