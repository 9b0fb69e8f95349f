//! The network between simulated servers: TCP as its users see it, with everything that can happen to it.
//!
//! ```text
//!   SimTransport (one for each server) ─▶ connect ─▶ Wire ── call, stream ─▶ post ─▶ in flight, by time
//!                                                                                       │ the world, every tick
//!                               held, while its way is cut ◀── cut ──────── advance ◀───┘
//!                                                                              └─▶ act: a task of the receiver
//! ```
//!
//! Messages of one stream arrive in order, each once, or the connection ends; a lost packet is a late message. Calls
//! overtake each other. What is under way when a link is cut waits there: when the link is back it arrives late, or its
//! connection is found to be dead. A process that dies resets its connections; a host that loses its power says nothing.

mod conduit;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use kontiki_proto::pb;
use kontiki_store::simulation::transport::{
    Answer, Call, Conduit, Introduction, Listener, Messages, PeerError, PeerService, Probe, Transport,
};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::entropy::mix;
use super::trace::Trace;
use conduit::SimConduit;

pub type HostId = usize;

/// How the way from one host to another is.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub least: Duration,
    pub spread: Duration,
    /// Of a thousand messages, so many are lost at first and come when they are sent again.
    pub lost_permille: u32,
    /// Of a thousand votes asked for, so many arrive a second time, and late.
    pub doubled_permille: u32,
}

impl Default for Weather {
    fn default() -> Weather {
        Weather {
            least: Duration::from_micros(200),
            spread: Duration::from_micros(800),
            lost_permille: 0,
            doubled_permille: 0,
        }
    }
}

/// A connection is given up after this long without a sign of life, as keep-alive does.
const SILENCE: Duration = Duration::from_secs(6);
const CONNECT: Duration = Duration::from_secs(1);
const PROBE: Duration = Duration::from_millis(200);
/// Until somebody who waits for a handshake looks again.
const HANDSHAKE: Duration = Duration::from_millis(20);
/// Until a lost packet is sent again.
const RESENT: Duration = Duration::from_millis(200);

type Act = Box<dyn FnOnce() + Send>;

struct Flight {
    from: HostId,
    to: HostId,
    wire: Option<Arc<Wire>>,
    what: &'static str,
    digest: u64,
    act: Act,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    On,
    /// The host answers nobody.
    Off,
}

struct Port {
    host: HostId,
    held: bool,
    serving: Option<(Arc<dyn PeerService>, Handle)>,
}

struct Inner {
    now: Duration,
    random: SmallRng,
    next: u64,
    flights: BTreeMap<(Duration, u64), Flight>,
    held: BTreeMap<(HostId, HostId), Vec<Flight>>,
    weather: BTreeMap<(HostId, HostId), Weather>,
    /// Links that are cut, and since when.
    cuts: BTreeMap<(HostId, HostId), u64>,
    ports: BTreeMap<String, Port>,
    power: BTreeMap<HostId, Power>,
    wires: BTreeMap<u64, Arc<Wire>>,
    /// Hosts whose process is over within this tick: nothing leaves them any more.
    muted: BTreeSet<HostId>,
    delivered: u64,
}

/// All of the network. Cheap to clone.
#[derive(Clone)]
pub struct Net {
    inner: Arc<Mutex<Inner>>,
    trace: Arc<Trace>,
}

/// One connection. Each end learns of its own accord that it has ended.
struct Wire {
    id: u64,
    ends: [HostId; 2],
    ended: [CancellationToken; 2],
    /// What was lost with it; kept so that whoever waits for it is not told by its disappearance.
    lost: Mutex<Vec<Box<dyn Any + Send>>>,
}

impl Wire {
    fn is_over(&self) -> bool {
        self.ended[0].is_cancelled() || self.ended[1].is_cancelled()
    }

    fn end_both(&self) {
        self.ended[0].cancel();
        self.ended[1].cancel();
        let lost = std::mem::take(&mut *self.lost.lock());
        drop(lost);
    }
}

impl Net {
    pub fn new(seed: u64, trace: Arc<Trace>) -> Net {
        let inner = Inner {
            now: Duration::ZERO,
            random: SmallRng::seed_from_u64(mix(seed ^ 0x6e65_7477_6f72_6b00)),
            next: 0,
            flights: BTreeMap::new(),
            held: BTreeMap::new(),
            weather: BTreeMap::new(),
            cuts: BTreeMap::new(),
            ports: BTreeMap::new(),
            power: BTreeMap::new(),
            wires: BTreeMap::new(),
            muted: BTreeSet::new(),
            delivered: 0,
        };
        Net { inner: Arc::new(Mutex::new(inner)), trace }
    }

    /// One server's way to the others.
    pub fn transport(&self, host: HostId, address: &str) -> Arc<dyn Transport> {
        let mut inner = self.inner.lock();
        inner.ports.entry(address.to_owned()).or_insert(Port { host, held: false, serving: None });
        inner.power.insert(host, Power::On);
        Arc::new(SimTransport { net: self.clone(), host })
    }

    pub fn delivered(&self) -> u64 {
        self.inner.lock().delivered
    }

    /// Nothing leaves the host from here on, until its process has ended.
    pub fn mute(&self, host: HostId) {
        self.inner.lock().muted.insert(host);
    }

    /// The process has ended. On a host that lives its connections are reset; one without power just falls silent.
    pub fn process_ended(&self, host: HostId, power_lost: bool) {
        let mut gone: Vec<Box<dyn Any + Send>> = Vec::new();
        let mut reset = Vec::new();
        {
            let mut inner = self.inner.lock();
            inner.muted.insert(host);
            inner.power.insert(host, if power_lost { Power::Off } else { Power::On });
            for port in inner.ports.values_mut().filter(|port| port.host == host) {
                port.held = false;
                if let Some(serving) = port.serving.take() {
                    gone.push(Box::new(serving));
                }
            }
            for wire in inner.wires.values().filter(|wire| wire.ends.contains(&host)) {
                reset.push(Arc::clone(wire));
            }
        }
        for wire in reset {
            let (own, other) = if wire.ends[0] == host { (0, 1) } else { (1, 0) };
            wire.ended[own].cancel();
            let (to, end) = (wire.ends[other], wire.ended[other].clone());
            if power_lost {
                self.later(SILENCE, move || end.cancel());
            } else {
                // The operating system says it, not the process.
                let after = self.inner.lock().random.random_range(1000..3000);
                let net = self.clone();
                self.later(Duration::from_micros(after), move || {
                    if net.inner.lock().cuts.contains_key(&(host, to)) {
                        net.later(SILENCE, move || end.cancel());
                    } else {
                        end.cancel();
                    }
                });
            }
        }
        drop(gone);
    }

    /// The process has been dropped; the next one may speak. A host that lost its power may answer again.
    pub fn process_may_start(&self, host: HostId) {
        let mut inner = self.inner.lock();
        inner.muted.remove(&host);
        inner.power.insert(host, Power::On);
    }

    pub fn set_weather(&self, from: HostId, to: HostId, weather: Option<Weather>) {
        let mut inner = self.inner.lock();
        match weather {
            Some(weather) => inner.weather.insert((from, to), weather),
            None => inner.weather.remove(&(from, to)),
        };
    }

    /// Nothing gets from one to the other any more.
    pub fn cut(&self, from: HostId, to: HostId) {
        let number = {
            let mut inner = self.inner.lock();
            inner.next += 1;
            let number = inner.next;
            if inner.cuts.contains_key(&(from, to)) {
                return;
            }
            inner.cuts.insert((from, to), number);
            number
        };
        // Keep-alive finds out after a while, if the link is still cut then.
        let net = self.clone();
        self.later(SILENCE, move || {
            let over: Vec<Arc<Wire>> = {
                let inner = net.inner.lock();
                if inner.cuts.get(&(from, to)) != Some(&number) {
                    return;
                }
                let between = |wire: &&Arc<Wire>| wire.ends.contains(&from) && wire.ends.contains(&to);
                inner.wires.values().filter(between).cloned().collect()
            };
            for wire in over {
                wire.end_both();
            }
        });
    }

    /// The link is back. What waited on it comes late, or its connection turns out to be dead.
    pub fn mend(&self, from: HostId, to: HostId) {
        let (held, coin) = {
            let mut inner = self.inner.lock();
            if inner.cuts.remove(&(from, to)).is_none() {
                return;
            }
            let held = inner.held.remove(&(from, to)).unwrap_or_default();
            let coin: u64 = inner.random.random();
            (held, coin)
        };
        let mut gone = Vec::new();
        for flight in held {
            match flight.wire.clone() {
                Some(wire) if mix(coin ^ wire.id).is_multiple_of(2) => {
                    let Flight { from, to, what, digest, act, .. } = flight;
                    let mut inner = self.inner.lock();
                    let at = inner.now + RESENT * (mix(coin ^ wire.id) >> 32 & 3) as u32 / 2;
                    inner.launch(at, Flight { from, to, wire: Some(wire), what, digest, act });
                }
                Some(wire) => {
                    gone.push(flight);
                    wire.end_both();
                }
                // An attempt to connect, given up long ago.
                None => gone.push(flight),
            }
        }
        drop(gone);
    }

    pub fn clear_weather(&self) {
        self.inner.lock().weather.clear();
    }

    pub fn mend_all(&self) {
        let cuts: Vec<(HostId, HostId)> = self.inner.lock().cuts.keys().copied().collect();
        for (from, to) in cuts {
            self.mend(from, to);
        }
        self.inner.lock().weather.clear();
    }

    /// Ends all connections between two hosts, both of which live.
    pub fn reset(&self, one: HostId, other: HostId) {
        let between = |wire: &&Arc<Wire>| wire.ends.contains(&one) && wire.ends.contains(&other);
        let wires: Vec<Arc<Wire>> = self.inner.lock().wires.values().filter(between).cloned().collect();
        for wire in wires {
            wire.end_both();
        }
    }

    /// Delivers all that is due by now.
    pub fn advance(&self, now: Duration) {
        loop {
            let act = {
                let mut inner = self.inner.lock();
                inner.now = now;
                let Some(entry) = inner.flights.first_entry() else { break };
                if entry.key().0 > now {
                    break;
                }
                let flight = entry.remove();
                if inner.cuts.contains_key(&(flight.from, flight.to)) {
                    inner.held.entry((flight.from, flight.to)).or_default().push(flight);
                    continue;
                }
                if inner.power.get(&flight.to) == Some(&Power::Off) {
                    // Nobody is told; a connection's other end finds out by silence.
                    if let Some(wire) = &flight.wire {
                        wire.lost.lock().push(Box::new(flight.act));
                    } else {
                        inner.held.entry((flight.from, flight.to)).or_default().push(flight);
                    }
                    continue;
                }
                inner.delivered += 1;
                flight
            };
            let Flight { from, to, what, digest, act, .. } = act;
            if from != to {
                self.trace.note(now, format_args!("{from}→{to} {what} {digest:016x}"));
            }
            act();
        }
        let over = {
            let mut inner = self.inner.lock();
            let ids: Vec<u64> = inner
                .wires
                .iter()
                .filter(|(_, wire)| wire.ended.iter().all(CancellationToken::is_cancelled))
                .map(|(id, _)| *id)
                .collect();
            ids.into_iter().filter_map(|id| inner.wires.remove(&id)).collect::<Vec<_>>()
        };
        for wire in over {
            wire.end_both();
        }
    }

    /// Something that happens after a while, at no host in particular.
    fn later(&self, after: Duration, act: impl FnOnce() + Send + 'static) {
        let mut inner = self.inner.lock();
        let at = inner.now + after;
        inner.launch(
            at,
            Flight { from: usize::MAX, to: usize::MAX, wire: None, what: "", digest: 0, act: Box::new(act) },
        );
    }

    /// Sends. With `order`, not before what was last sent with it.
    #[allow(clippy::too_many_arguments, reason = "one flight's worth")]
    fn post(
        &self,
        wire: Option<&Arc<Wire>>,
        from: HostId,
        to: HostId,
        order: Option<&Order>,
        what: &'static str,
        digest: u64,
        act: Act,
    ) {
        let mut inner = self.inner.lock();
        if inner.muted.contains(&from) && what != "knocked" {
            drop(inner);
            drop(act);
            return;
        }
        let weather = inner.weather.get(&(from, to)).copied().unwrap_or_default();
        let spread = inner.random.random_range(0..=weather.spread.as_micros() as u64);
        let mut at = inner.now + weather.least + Duration::from_micros(spread);
        if weather.lost_permille > 0 && inner.random.random_range(0..1000) < weather.lost_permille {
            at += RESENT * inner.random.random_range(1..4_u32);
        }
        if let Some(order) = order {
            let mut last = order.0.lock();
            at = at.max(*last);
            *last = at;
        }
        let flight = Flight { from, to, wire: wire.cloned(), what, digest, act };
        inner.launch(at, flight);
    }

    /// A second copy of a call, where the weather has it; late.
    fn doubled(&self, from: HostId, to: HostId) -> Option<Duration> {
        let mut inner = self.inner.lock();
        let weather = inner.weather.get(&(from, to)).copied()?;
        (weather.doubled_permille > 0 && inner.random.random_range(0..1000) < weather.doubled_permille)
            .then(|| Duration::from_millis(inner.random.random_range(1..2000)))
    }

    fn serving(&self, host: HostId) -> Option<(Arc<dyn PeerService>, Handle)> {
        let inner = self.inner.lock();
        inner.ports.values().find(|port| port.host == host).and_then(|port| port.serving.clone())
    }

    fn door(&self, host: HostId) -> Door {
        let inner = self.inner.lock();
        match inner.ports.values().find(|port| port.host == host && port.held) {
            None => Door::Shut,
            Some(port) if port.serving.is_none() => Door::Held,
            Some(_) => Door::Served,
        }
    }
}

impl Inner {
    fn launch(&mut self, at: Duration, flight: Flight) {
        self.next += 1;
        self.flights.insert((at, self.next), flight);
    }
}

/// When the last message of a stream arrives.
#[derive(Default)]
struct Order(Mutex<Duration>);

fn digest(message: &pb::PeerMessage) -> u64 {
    let mut hash = message.payload.len() as u64;
    for chunk in message.payload.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = mix(hash ^ u64::from_le_bytes(word));
    }
    hash
}

fn lost(why: &str) -> PeerError {
    PeerError::Lost(why.to_owned())
}

fn unreachable(why: &str) -> PeerError {
    PeerError::Unreachable(why.to_owned())
}

const BROKEN: &str = "the connection has ended";

struct SimTransport {
    net: Net,
    host: HostId,
}

impl SimTransport {
    fn host_of(&self, address: &str) -> Option<HostId> {
        self.net.inner.lock().ports.get(address).map(|port| port.host)
    }
}

impl Transport for SimTransport {
    fn authority(&self) -> Vec<u8> {
        b"simulated".to_vec()
    }

    fn listen(&self, address: &str) -> BoxFuture<'static, Result<Box<dyn Listener>, String>> {
        let (net, host, address) = (self.net.clone(), self.host, address.to_owned());
        Box::pin(async move {
            let mut inner = net.inner.lock();
            let port =
                inner.ports.entry(address.clone()).or_insert(Port { host, held: false, serving: None });
            if port.host != host {
                return Err(format!("{address} is another host's"));
            }
            if port.held {
                return Err(format!("another process listens at {address}"));
            }
            port.held = true;
            drop(inner);
            Ok(Box::new(SimListener { net, address, served: false }) as Box<dyn Listener>)
        })
    }

    fn connect(&self, address: &str) -> Answer<Arc<dyn Conduit>> {
        let (net, from) = (self.net.clone(), self.host);
        let Some(to) = self.host_of(address) else {
            let problem = unreachable(&format!("{address} is no address of this network"));
            return Box::pin(async move { Err(problem) });
        };
        Box::pin(async move {
            let shakes_hands = async {
                loop {
                    let (said, heard) = oneshot::channel();
                    knock(&net, from, to, said);
                    match word(heard).await {
                        Door::Shut => return false,
                        Door::Served => return true,
                        Door::Held => tokio::time::sleep(HANDSHAKE).await,
                    }
                }
            };
            match tokio::time::timeout(CONNECT, shakes_hands).await {
                Ok(true) => {
                    let wire = {
                        let mut inner = net.inner.lock();
                        inner.next += 1;
                        let id = inner.next;
                        let wire = Arc::new(Wire {
                            id,
                            ends: [from, to],
                            ended: Default::default(),
                            lost: Mutex::default(),
                        });
                        inner.wires.insert(id, Arc::clone(&wire));
                        wire
                    };
                    Ok(Arc::new(SimConduit { net, wire }) as Arc<dyn Conduit>)
                }
                Ok(false) => Err(unreachable("connection refused")),
                Err(_) => Err(unreachable("no answer to an attempt to connect")),
            }
        })
    }

    fn probe(&self, address: &str) -> BoxFuture<'static, Probe> {
        let (net, from, to) = (self.net.clone(), self.host, self.host_of(address));
        Box::pin(async move {
            let (said, heard) = oneshot::channel();
            if let Some(to) = to {
                knock(&net, from, to, said);
            }
            match tokio::time::timeout(PROBE, word(heard)).await {
                Ok(Door::Held | Door::Served) => Probe::Listening,
                Ok(Door::Shut) => Probe::Refused,
                Err(_) => Probe::Silent,
            }
        })
    }
}

/// What somebody who knocks finds.
#[derive(Clone, Copy)]
enum Door {
    Shut,
    /// The operating system takes the connection, and nobody shakes hands yet: the process is still starting.
    Held,
    Served,
}

/// The answer, or never: what was lost says nothing.
async fn word(heard: oneshot::Receiver<Door>) -> Door {
    match heard.await {
        Ok(word) => word,
        Err(_) => std::future::pending().await,
    }
}

/// Asks a host whether anybody listens there.
fn knock(net: &Net, from: HostId, to: HostId, said: oneshot::Sender<Door>) {
    let back = net.clone();
    let arrive = move || {
        let door = back.door(to);
        // Whoever asked may wait no longer.
        let tell = Box::new(move || {
            let _ = said.send(door);
        });
        back.clone().post(None, to, from, None, "knocked", door as u64, tell);
    };
    net.post(None, from, to, None, "knock", 0, Box::new(arrive));
}

struct SimListener {
    net: Net,
    address: String,
    served: bool,
}

impl Drop for SimListener {
    fn drop(&mut self) {
        if !self.served
            && let Some(port) = self.net.inner.lock().ports.get_mut(&self.address)
        {
            port.held = false;
        }
    }
}

impl Listener for SimListener {
    fn serve(mut self: Box<Self>, service: Arc<dyn PeerService>, stop: CancellationToken) {
        self.served = true;
        let (net, address) = (self.net.clone(), self.address.clone());
        let host = {
            let mut inner = net.inner.lock();
            let Some(port) = inner.ports.get_mut(&address) else { return };
            port.serving = Some((service, Handle::current()));
            port.host
        };
        tokio::spawn(async move {
            stop.cancelled().await;
            // As a process that ends does, but for what it still has to say.
            let (gone, wires) = {
                let mut inner = net.inner.lock();
                let gone = inner.ports.get_mut(&address).and_then(|port| {
                    port.held = false;
                    port.serving.take()
                });
                let to_it = |wire: &&Arc<Wire>| wire.ends[1] == host;
                (gone, inner.wires.values().filter(to_it).cloned().collect::<Vec<_>>())
            };
            for wire in wires {
                wire.ended[1].cancel();
                let end = wire.ended[0].clone();
                net.post(None, host, wire.ends[0], None, "closed", wire.id, Box::new(move || end.cancel()));
            }
            drop(gone);
        });
    }
}
