//! Names of elsewhere, asked of the node's own resolvers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_server::proto::op::{Message, MessageType, OpCode, Query};
use hickory_server::proto::rr::{Name, RecordType};
use parking_lot::Mutex;
use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// Questions under way at once; more are refused, so that an unreachable resolver costs a bounded amount of memory.
const IN_FLIGHT: usize = 256;
const ATTEMPT: Duration = Duration::from_millis(1500);
const RESOLV_CONF: &str = "/etc/resolv.conf";
const REREAD: Duration = Duration::from_secs(10);

pub(super) struct Forwarder {
    permits: Arc<Semaphore>,
    own: Ipv4Addr,
    upstreams: Mutex<(Option<Instant>, Vec<SocketAddr>)>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    #[error("the node has no resolver")]
    None,
    #[error("too many questions under way")]
    Busy,
    #[error("no resolver answered")]
    Silent,
}

impl Forwarder {
    /// `own` is this server's address, which is no upstream of itself.
    pub fn new(own: Ipv4Addr) -> Forwarder {
        Forwarder { permits: Arc::new(Semaphore::new(IN_FLIGHT)), own, upstreams: Mutex::default() }
    }

    fn upstreams(&self) -> Vec<SocketAddr> {
        let mut known = self.upstreams.lock();
        if known.0.is_none_or(|read| read.elapsed() > REREAD) {
            let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
            *known = (Some(Instant::now()), nameservers(&text, self.own));
        }
        known.1.clone()
    }

    /// Asks each resolver once until one answers; takes at most 1.5 s for each of the first three.
    pub async fn ask(&self, name: &Name, record_type: RecordType) -> Result<Message, ForwardError> {
        let upstreams = self.upstreams();
        if upstreams.is_empty() {
            return Err(ForwardError::None);
        }
        let _permit = self.permits.try_acquire().map_err(|_| ForwardError::Busy)?;
        let mut question = Message::new(rand::rng().random(), MessageType::Query, OpCode::Query);
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(name.clone(), record_type));
        for upstream in upstreams.into_iter().take(3) {
            match tokio::time::timeout(ATTEMPT, exchange(upstream, &question)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => tracing::debug!(%upstream, %error, "a resolver failed"),
                Err(_) => tracing::debug!(%upstream, "a resolver is silent"),
            }
        }
        Err(ForwardError::Silent)
    }
}

/// By UDP, and by TCP where the answer was cut off.
async fn exchange(upstream: SocketAddr, question: &Message) -> io::Result<Message> {
    let bytes = question.to_vec().map_err(io::Error::other)?;
    let local: SocketAddr = if upstream.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        "[::]:0".parse().map_err(io::Error::other)?
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(upstream).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not fit the question is an error of the network or a forgery; the true answer may still come.
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if fits(question, &answer) => {
                return if answer.metadata.truncation {
                    by_tcp(upstream, &bytes, question).await
                } else {
                    Ok(answer)
                };
            }
            _ => {}
        }
    }
}

async fn by_tcp(upstream: SocketAddr, bytes: &[u8], question: &Message) -> io::Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    stream.write_u16(u16::try_from(bytes.len()).map_err(io::Error::other)?).await?;
    stream.write_all(bytes).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(io::Error::other)?;
    if fits(question, &answer) { Ok(answer) } else { Err(io::Error::other("an answer to another question")) }
}

fn fits(question: &Message, answer: &Message) -> bool {
    answer.metadata.id == question.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries == question.queries
}

fn nameservers(text: &str, own: Ipv4Addr) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
    });
    servers.filter(|server| *server != IpAddr::V4(own)).map(|server| SocketAddr::new(server, 53)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_the_nameserver_lines_without_ourselves() {
        let text = "# x\nsearch a b\nnameserver 10.96.0.10\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 \nnameserver bad\n";
        let found = nameservers(text, "10.96.0.10".parse().unwrap());
        let expected: Vec<SocketAddr> =
            vec!["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()];
        assert_eq!(found, expected);
    }
}
