//! The smallest network that can be cut: in one process, a millisecond each way, nothing lost but what a cut holds back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use kontiki_proto::pb;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::life::Life;
use crate::raft::transport::{
    Answer, Call, Conduit, Introduction, Listener, Messages, PeerError, PeerService, Probe, Transport,
};

const ONE_WAY: Duration = Duration::from_millis(1);
const CONNECT: Duration = Duration::from_secs(1);
const KNOCK: Duration = Duration::from_millis(200);
const IN_FLIGHT: usize = 1024;

#[derive(Clone, Default)]
pub(super) struct Net {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// `None`: held, and nobody is served yet.
    ports: BTreeMap<String, Option<Port>>,
    cuts: BTreeSet<(String, String)>,
    wires: Vec<Wire>,
}

#[derive(Clone)]
struct Port {
    life: Life,
    service: Arc<dyn PeerService>,
}

#[derive(Clone)]
struct Wire {
    net: Net,
    from: String,
    to: String,
    port: Port,
    ended: CancellationToken,
}

impl Net {
    pub fn transport(&self, me: &str) -> Arc<dyn Transport> {
        Arc::new(Way { net: self.clone(), me: me.to_string() })
    }

    /// Nothing gets from one to the other until [`Net::heal`].
    pub fn cut(&self, from: &str, to: &str) {
        self.state.lock().cuts.insert((from.to_string(), to.to_string()));
    }

    pub fn heal(&self) {
        self.state.lock().cuts.clear();
    }

    /// The process at the address is dead, and its host says so.
    pub fn dead(&self, address: &str) {
        let mut state = self.state.lock();
        state.ports.remove(address);
        state.wires.retain(|wire| {
            let over = wire.from == address || wire.to == address;
            if over {
                wire.ended.cancel();
            }
            !over
        });
    }

    /// Takes the time of one way, and as long as it is cut.
    async fn travel(&self, from: &str, to: &str) {
        tokio::time::sleep(ONE_WAY).await;
        let way = (from.to_string(), to.to_string());
        while self.state.lock().cuts.contains(&way) {
            tokio::time::sleep(ONE_WAY * 5).await;
        }
    }

    async fn there_and_back(&self, from: &str, to: &str) {
        self.travel(from, to).await;
        self.travel(to, from).await;
    }
}

struct Way {
    net: Net,
    me: String,
}

impl Transport for Way {
    fn authority(&self) -> Vec<u8> {
        b"of the tests".to_vec()
    }

    fn listen(&self, address: &str) -> BoxFuture<'static, Result<Box<dyn Listener>, String>> {
        let held = Held { net: self.net.clone(), address: address.to_string() };
        async move {
            held.net.state.lock().ports.insert(held.address.clone(), None);
            Ok(Box::new(held) as Box<dyn Listener>)
        }
        .boxed()
    }

    fn connect(&self, address: &str) -> Answer<Arc<dyn Conduit>> {
        let (net, from, to) = (self.net.clone(), self.me.clone(), address.to_string());
        async move {
            let unreachable = |why: &str| PeerError::Unreachable(format!("{to}: {why}"));
            let reached = tokio::time::timeout(CONNECT, net.there_and_back(&from, &to)).await;
            reached.map_err(|_| unreachable("no answer"))?;
            let mut state = net.state.lock();
            let port = state.ports.get(&to).cloned().ok_or_else(|| unreachable("refused"))?;
            let port = port.ok_or_else(|| unreachable("nobody is served yet"))?;
            let ended = CancellationToken::new();
            let wire = Wire { net: net.clone(), from: from.clone(), to: to.clone(), port, ended };
            state.wires.push(wire.clone());
            Ok(Arc::new(wire) as Arc<dyn Conduit>)
        }
        .boxed()
    }

    fn probe(&self, address: &str) -> BoxFuture<'static, Probe> {
        let (net, from, to) = (self.net.clone(), self.me.clone(), address.to_string());
        async move {
            match tokio::time::timeout(KNOCK, net.there_and_back(&from, &to)).await {
                Err(_) => Probe::Silent,
                Ok(()) if net.state.lock().ports.contains_key(&to) => Probe::Listening,
                Ok(()) => Probe::Refused,
            }
        }
        .boxed()
    }
}

struct Held {
    net: Net,
    address: String,
}

impl Listener for Held {
    fn serve(self: Box<Self>, service: Arc<dyn PeerService>, stop: CancellationToken) {
        let life = Life::current().expect("servers of these tests have a life");
        self.net.state.lock().ports.insert(self.address.clone(), Some(Port { life, service }));
        crate::life::spawn(async move {
            stop.cancelled().await;
            self.net.dead(&self.address);
        });
    }
}

impl Wire {
    fn lost(&self) -> PeerError {
        PeerError::Lost(format!("the connection to {} has ended", self.to))
    }

    /// Carries a call there, has the server act on it, and carries the answer back.
    fn call<T: Send + 'static>(
        &self,
        act: impl FnOnce(&dyn PeerService) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let wire = self.clone();
        async move {
            if wire.ended.is_cancelled() {
                return Err(PeerError::Unreachable("the connection has ended".to_string()));
            }
            let carried = async {
                wire.net.travel(&wire.from, &wire.to).await;
                let answer = wire.port.life.spawn(act(&*wire.port.service)).await;
                wire.net.travel(&wire.to, &wire.from).await;
                answer.map_err(|_| wire.lost())?
            };
            tokio::select! {
                answer = carried => answer,
                () = wire.ended.cancelled() => Err(wire.lost()),
            }
        }
        .boxed()
    }

    /// Carries messages one way, in order; the far end of what it returns ends with the connection.
    fn pipe(&self, mut messages: Messages, from: String, to: String, by: Option<&Life>) -> Messages {
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        let (net, ended) = (self.net.clone(), self.ended.clone());
        let carry = ended.run_until_cancelled_owned(async move {
            while let Some(message) = messages.next().await {
                net.travel(&from, &to).await;
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        });
        match by {
            Some(life) => drop(life.spawn(carry)),
            None => drop(crate::life::spawn(carry)),
        }
        ReceiverStream::new(receiver).boxed()
    }

    fn there(&self, messages: Messages) -> Messages {
        self.pipe(messages, self.from.clone(), self.to.clone(), None)
    }
}

impl PeerService for Wire {
    fn append(&self, requests: Messages) -> Answer<Messages> {
        let (wire, requests) = (self.clone(), self.there(requests));
        let begun = self.call(move |service| service.append(requests));
        async move {
            let answers = begun.await?;
            let life = wire.port.life.clone();
            let back = wire.pipe(answers, wire.to.clone(), wire.from.clone(), Some(&life));
            // Where the connection ended, the stream must not look as if the other side had finished it.
            let end =
                futures::stream::once(async move { wire.ended.is_cancelled().then(|| Err(wire.lost())) });
            Ok(back.chain(end.filter_map(futures::future::ready)).boxed())
        }
        .boxed()
    }

    fn snapshot(&self, parts: Messages) -> Answer<pb::PeerMessage> {
        let parts = self.there(parts);
        self.call(move |service| service.snapshot(parts))
    }

    fn ask(&self, call: Call, message: pb::PeerMessage) -> Answer<pb::PeerMessage> {
        self.call(move |service| service.ask(call, message))
    }

    fn status(&self) -> Answer<Introduction> {
        self.call(|service| service.status())
    }

    fn admit(&self, request: pb::JoinRequest) -> Answer<pb::JoinReply> {
        self.call(move |service| service.admit(request))
    }
}

impl Conduit for Wire {
    fn closed(&self) -> BoxFuture<'static, ()> {
        self.ended.clone().cancelled_owned().boxed()
    }
}
