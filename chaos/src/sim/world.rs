//! The world of a run: servers, the network between them, their disks, and the time that passes for all of them.
//!
//! ```text
//!   form ─▶ storm: traffic and faults ─▶ heal ─▶ fresh service on every server ─▶ still ─▶ agreement ─▶ evidence
//! ```
//!
//! A step of the world delivers what the network owes, lets each server run for a tick, looks at who has fallen, and
//! starts who is to come back.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kontiki_store::simulation::{Environment, Labour, Look};
use kontiki_store::{Config, OpenError, PeerTls, Start, Store};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::api;
use super::client::{Client, Front, watch};
use super::disk::{Drive, Fall};
use super::entropy::mix;
use super::host::Host;
use super::net::Net;
use super::plan::Plan;
use super::record::{Pulse, Record};
use super::trace::Trace;
use crate::history::{Action, Final, Key, Outcome, ServerId, Version};
use crate::observe::{Fact, LogId, Vote};

/// Virtual time that forming a cluster, healing, and agreeing may each take.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Membership that has not changed for so long is taken to be at rest.
const SETTLED: Duration = Duration::from_secs(2);
/// Between two looks at a server.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Log entries remembered of each server, so that a truncation is noticed.
const REMEMBERED: usize = 512;

enum Opening {
    Waiting,
    Opened(Front),
    Failed(OpenError),
}

/// A server's place: what stays when its process ends.
pub struct Site {
    pub host: Host,
    pub drive: Arc<Drive>,
    address: String,
    /// Whom history knows it as; a server that lost its disk is another one afterwards.
    pub server: ServerId,
    pub life: usize,
    pub pulse: Arc<Pulse>,
    opening: Arc<Mutex<Opening>>,
    pub store: Option<Store>,
    verbs: Option<api::Verbs>,
    /// When its process is started; never, where it runs.
    pub starts: Option<Duration>,
    watchers: Vec<usize>,
    seen: Seen,
}

#[derive(Default)]
struct Seen {
    leads: Option<(bool, u64)>,
    vote: Option<(u64, u64)>,
    revision: u64,
    applied: (u64, u64),
    leases_at: Duration,
    log: BTreeMap<u64, (u64, u64)>,
}

/// A member that was told to leave, and who was asked to see to it.
pub struct Leaving {
    pub number: usize,
    pub asked: usize,
    pub life: usize,
    pub left: Arc<Mutex<Option<bool>>>,
}

pub struct World {
    pub plan: Plan,
    pub random: SmallRng,
    pub now: Duration,
    pub net: Net,
    pub record: Arc<Record>,
    pub sites: Vec<Site>,
    next_server: ServerId,
    next_client: usize,
    pub traffic: bool,
    looked: Duration,
    closing: Arc<Pulse>,
    pub leaving: Vec<Leaving>,
    strangers_sought: Duration,
    settled_since: Option<Duration>,
    /// Servers that stop in good order.
    stopping: Vec<(usize, Arc<Pulse>)>,
}

impl World {
    pub fn new(plan: Plan, trace: Arc<Trace>) -> World {
        let net = Net::new(plan.seed, Arc::clone(&trace));
        let record = Arc::new(Record::new(trace, plan.bulk));
        let sites: Vec<Site> = (0..plan.servers)
            .map(|number| Site {
                host: Host::default(),
                drive: Drive::new(number, net.clone(), plan.seed),
                address: format!("server-{number}:7000"),
                server: number,
                life: 0,
                pulse: Arc::default(),
                opening: Arc::new(Mutex::new(Opening::Waiting)),
                store: None,
                verbs: None,
                starts: None,
                watchers: Vec::new(),
                seen: Seen::default(),
            })
            .collect();
        World {
            random: SmallRng::seed_from_u64(mix(plan.seed ^ 0x0077_6f72_6c64)),
            now: Duration::ZERO,
            next_server: plan.servers,
            next_client: plan.servers * plan.clients_each,
            plan,
            net,
            record,
            sites,
            traffic: false,
            looked: Duration::ZERO,
            closing: Arc::default(),
            leaving: Vec::new(),
            stopping: Vec::new(),
            strangers_sought: Duration::ZERO,
            settled_since: None,
        }
    }

    /// Starts the process of a site.
    fn start(&mut self, number: usize) {
        let everybody: Vec<String> = self.sites.iter().map(|site| site.address.clone()).collect();
        let site = &mut self.sites[number];
        site.starts = None;
        self.net.process_may_start(number);
        let Ok(_) = site.host.start() else {
            self.record.odd("a runtime cannot be made".to_owned());
            return;
        };
        site.life += 1;
        site.pulse = Arc::default();
        let first = number == 0 && (site.life == 1 || self.plan.servers == 1);
        let start = if first {
            Start::Bootstrap
        } else {
            Start::Join(everybody.into_iter().filter(|address| *address != site.address).collect())
        };
        let config = Config {
            data_dir: PathBuf::from("simulated"),
            start,
            peer_listen: site.address.clone(),
            peer_advertise: site.address.clone(),
            client_advertise: site.address.replace("7000", "6443"),
            tls: PeerTls { ca_pem: String::new(), cert_pem: String::new(), key_pem: String::new() },
            timings: self.plan.timings.clone(),
            max_txn_bytes: 2 << 20,
            history: self.plan.history,
            history_bytes: self.plan.history_bytes,
        };
        let environment = Environment {
            storage: site.drive.mount(Arc::clone(&site.pulse)),
            transport: self.net.transport(number, &site.address),
            labour: Labour::Inline(site.drive.clone()),
        };
        let opening = Arc::new(Mutex::new(Opening::Waiting));
        site.opening = Arc::clone(&opening);
        site.host.spawn(async move {
            let opened = Store::open_simulated(config, environment).await;
            *opening.lock() = match opened {
                Ok(store) => Opening::Opened(Front { verbs: api::serve(&store), store }),
                Err(error) => Opening::Failed(error),
            };
        });
        let life = site.life;
        let at = self.record.now();
        self.record.trace.note(at, format_args!("server {} starts, life {life}", self.sites[number].server));
    }

    /// The process of a site ends, at once; it comes back after the time.
    pub fn end(&mut self, number: usize, power: bool, back_after: Duration) {
        let site = &mut self.sites[number];
        self.stopping.retain(|(other, _)| *other != number);
        if site.host.runs() {
            site.pulse.stop();
            self.net.process_ended(number, power);
            if power {
                site.drive.power_cut();
            } else {
                site.drive.kill();
            }
            site.store = None;
            site.verbs = None;
            *site.opening.lock() = Opening::Waiting;
            site.host.kill();
        } else if power {
            // What a killed process had written was still in the machine's memory.
            site.drive.power_cut();
        }
        site.host.rate_permille = 1000;
        site.starts = Some(self.now + back_after);
        let at = self.record.now();
        let how = if power { "loses its power" } else { "is killed" };
        self.record.trace.note(at, format_args!("server {} {how}", self.sites[number].server));
    }

    /// A site gets an empty disk; who comes back there is a new server.
    pub fn wipe(&mut self, number: usize, back_after: Duration) {
        self.end(number, true, back_after);
        let site = &mut self.sites[number];
        site.drive.wipe();
        site.server = self.next_server;
        site.seen = Seen::default();
        self.next_server += 1;
    }

    /// A server is stopped in good order, and comes back.
    pub fn shut_down(&mut self, number: usize) {
        let site = &self.sites[number];
        let Some(store) = site.store.clone() else { return };
        let stopped = Arc::new(Pulse::default());
        let told = Arc::clone(&stopped);
        site.host.spawn(async move {
            store.shutdown().await;
            told.stop();
        });
        self.stopping.push((number, stopped));
    }

    fn see_to_those_who_leave(&mut self) {
        let mut gone = Vec::new();
        let lives: Vec<usize> = self.sites.iter().map(|site| site.life).collect();
        self.leaving.retain(|one| match *one.left.lock() {
            // Whoever was asked may have died over it.
            None => lives[one.asked] == one.life,
            Some(left) => {
                if left {
                    gone.push(one.number);
                }
                false
            }
        });
        for number in gone {
            let back = Duration::from_millis(self.random.random_range(50..800));
            self.wipe(number, back);
        }
        self.replace_strangers();
        let mut stopped = Vec::new();
        self.stopping.retain(|(number, pulse)| {
            if !pulse.beats() {
                stopped.push(*number);
            }
            pulse.beats()
        });
        for number in stopped {
            let back = Duration::from_millis(self.random.random_range(50..400));
            self.end(number, false, back);
        }
    }

    /// A server that runs and that every other server knows to be no member has left, whatever its request came to.
    fn replace_strangers(&mut self) {
        if self.now < self.strangers_sought + Duration::from_secs(1) {
            return;
        }
        self.strangers_sought = self.now;
        let looks: Vec<Option<Look>> = (0..self.sites.len()).map(|number| self.look(number)).collect();
        for (number, look) in looks.iter().enumerate() {
            let Some(look) = look else { continue };
            let knows = |other: &Option<Look>| {
                let id = look.member;
                other.as_ref().is_none_or(|other| other.voters.contains(&id) || other.learners.contains(&id))
            };
            let others = looks.iter().enumerate().filter(|(other, _)| *other != number);
            let mut others = others.map(|(_, other)| other).peekable();
            if others.peek().is_some() && !others.any(knows) {
                self.wipe(number, Duration::from_millis(100));
                return;
            }
        }
    }

    pub fn servers_ever(&self) -> usize {
        self.next_server
    }

    pub fn is_up(&self, number: usize) -> bool {
        self.sites[number].store.is_some() && self.sites[number].host.runs()
    }

    pub fn look(&self, number: usize) -> Option<Look> {
        self.sites[number].store.as_ref()?.look(1, 0)
    }

    /// The site that leads in the newest term, as far as it knows.
    pub fn leader(&self) -> Option<usize> {
        let looks = (0..self.sites.len()).filter_map(|number| Some((number, self.look(number)?)));
        looks.filter(|(_, look)| look.leads).max_by_key(|(_, look)| look.term).map(|(number, _)| number)
    }

    /// One step of all there is.
    pub fn tick(&mut self) {
        self.now += self.plan.tick;
        let now = self.now;
        self.record.set_time(now);
        api::set_wall_clock(now);
        self.net.advance(now);
        for number in 0..self.sites.len() {
            self.sites[number].host.step(self.plan.tick);
            self.after_step(number);
        }
        self.see_to_those_who_leave();
        if now >= self.looked + LOOK_EVERY {
            self.looked = now;
            for number in 0..self.sites.len() {
                self.observe(number);
            }
        }
    }

    fn after_step(&mut self, number: usize) {
        let site = &mut self.sites[number];
        if let Some(fall) = site.drive.fallen().filter(|_| site.host.runs()) {
            let back = Duration::from_millis(self.random.random_range(50..2000));
            let at = self.record.now();
            self.record.trace.note(at, format_args!("server {} has fallen: {fall:?}", site.server));
            self.end(number, fall == Fall::Power, back);
            return;
        }
        if site.starts.is_some_and(|at| at <= self.now) && !site.host.runs() {
            self.start(number);
            return;
        }
        let opening = std::mem::replace(&mut *site.opening.lock(), Opening::Waiting);
        match opening {
            Opening::Waiting => {}
            Opening::Opened(Front { store, verbs }) => {
                site.store = Some(store);
                site.verbs = verbs;
                let at = self.record.now();
                self.record.trace.note(at, format_args!("server {} is open", site.server));
                if self.traffic {
                    self.begin_traffic(number);
                }
            }
            Opening::Failed(error) => {
                let server = site.server;
                let at = self.record.now();
                self.record.trace.note(at, format_args!("server {server} does not open: {error}"));
                if matches!(error, OpenError::Corrupt { .. } | OpenError::OtherCluster { .. }) {
                    self.record.odd(format!("server {server} does not open: {error}"));
                }
                self.end(number, false, Duration::from_millis(500));
            }
        }
    }

    /// Clients and watchers of a server, from now on and again whenever it comes back.
    fn begin_traffic(&mut self, number: usize) {
        let plan = &self.plan;
        let site = &mut self.sites[number];
        let Some(store) = site.store.clone() else { return };
        let front = Front { store, verbs: site.verbs.clone() };
        for each in 0..plan.clients_each {
            let client = number * plan.clients_each + each;
            let seed = mix(plan.seed ^ (site.life as u64) << 16);
            let (record, pulse) = (Arc::clone(&self.record), Arc::clone(&site.pulse));
            let client = Client::new((client, site.server), front.clone(), record, pulse, plan.think, seed);
            site.host.spawn(client.run(Arc::clone(&self.closing)));
        }
        while site.watchers.len() < plan.watchers_each {
            let prefix = ["", "k/", "k/even/"][self.random.random_range(0..3)];
            site.watchers.push(self.record.add_watcher(prefix));
        }
        for watcher in &site.watchers {
            let (record, pulse) = (Arc::clone(&self.record), Arc::clone(&site.pulse));
            let seed = mix(plan.seed ^ (site.life as u64) << 16);
            match front.clone() {
                Front { verbs: Some(verbs), .. } => {
                    site.host.spawn(api::watch(*watcher, site.server, verbs, record, pulse, seed));
                }
                Front { store, .. } => {
                    site.host.spawn(watch(*watcher, site.server, store, record, pulse, seed));
                }
            }
        }
    }

    /// Two watchers change places, at the next restart of their servers.
    pub fn swap_watchers(&mut self, one: usize, other: usize) {
        let watchers = std::mem::take(&mut self.sites[one].watchers);
        self.sites[one].watchers = std::mem::replace(&mut self.sites[other].watchers, watchers);
    }

    fn observe(&mut self, number: usize) {
        let site = &mut self.sites[number];
        let Some(store) = &site.store else { return };
        let (server, life, seen) = (site.server, site.life, &mut site.seen);
        let newest = seen.log.keys().next_back().copied().unwrap_or(0);
        let mut from = newest.saturating_sub(4).max(1);
        let differs = |entry: &kontiki_store::simulation::Logged| {
            seen.log.get(&entry.index).is_some_and(|known| *known != (entry.term, entry.hash))
        };
        let look = loop {
            let Some(look) = store.look(from, 4096) else { return };
            // Another entry at the first place: the cut is further back.
            if look.log.first().is_some_and(differs) && from > look.purged + 1 && from > 1 {
                from = from.saturating_sub(64).max(1);
                continue;
            }
            break look;
        };
        let replaced = match look.log.first() {
            Some(first) if first.index <= newest => differs(first),
            _ => look.purged >= newest && newest > 0,
        };
        if !look.runs {
            return;
        }
        let record = &self.record;
        if seen.leads != Some((look.leads, look.term)) {
            seen.leads = Some((look.leads, look.term));
            let term = look.term;
            record.trace.note(self.now, format_args!("server {server} leads: {}, term {term}", look.leads));
            record.saw(server, life, if look.leads { Fact::Leads { term } } else { Fact::Follows { term } });
        }
        if look.voted_for != 0 && seen.vote != Some((look.vote_term, look.voted_for)) {
            // Whom a majority has elected is followed, whoever had the own vote in that term.
            let elected = look.vote_committed && seen.vote.is_some_and(|(term, _)| term == look.vote_term);
            seen.vote = Some((look.vote_term, look.voted_for));
            let vote = Vote { term: look.vote_term, candidate: look.voted_for as ServerId };
            if !elected {
                record.saw(server, life, Fact::Voted(vote));
            }
        }
        if replaced {
            // All that was seen may have been cut off, or a snapshot may have taken its place: what is left of the log does not
            // tell.
            seen.log.clear();
            record.saw(server, life, Fact::Truncated { from: 0 });
        }
        if look.last < newest {
            seen.log.split_off(&(look.last + 1));
            record.saw(server, life, Fact::Truncated { from: look.last + 1 });
        }
        for entry in &look.log {
            let new = (entry.term, entry.hash);
            match seen.log.get(&entry.index) {
                Some(known) if *known == new => continue,
                Some(_) => {
                    seen.log.split_off(&entry.index);
                    record.saw(server, life, Fact::Truncated { from: entry.index });
                }
                None => {}
            }
            seen.log.insert(entry.index, new);
            let at = LogId { term: entry.term, index: entry.index };
            record.saw(server, life, Fact::Logged { at, hash: entry.hash });
        }
        let (term, index) = look.applied;
        if seen.applied != look.applied
            && let Some((known, hash)) = seen.log.get(&index)
            && *known == term
        {
            record.saw(server, life, Fact::Applied { at: LogId { term, index }, hash: *hash });
        }
        seen.applied = look.applied;
        while seen.log.len() > REMEMBERED {
            seen.log.pop_first();
        }
        if look.revision != seen.revision {
            seen.revision = look.revision;
            record.saw(server, life, Fact::State { revision: look.revision, hash: look.state_hash });
        }
        if self.now >= seen.leases_at + Duration::from_millis(500) {
            seen.leases_at = self.now;
            let leases = look.leases.iter().map(|(id, ttl)| (*id, Duration::from_millis(*ttl))).collect();
            record.saw(server, life, Fact::Leases { revision: look.revision, leases });
        }
    }

    /// Lets time pass until it holds, at most so long; false where it never did.
    pub fn until(&mut self, patience: Duration, mut holds: impl FnMut(&mut World) -> bool) -> bool {
        let deadline = self.now + patience;
        while self.now < deadline {
            if holds(self) {
                return true;
            }
            self.tick();
        }
        holds(self)
    }

    /// All servers are open and vote; the first one bootstraps, the others join it.
    pub fn form(&mut self) -> bool {
        self.start(0);
        if !self.until(PATIENCE, |world| world.is_up(0)) {
            return false;
        }
        for number in 1..self.sites.len() {
            let after = Duration::from_millis(self.random.random_range(0..50));
            self.sites[number].starts = Some(self.now + after);
        }
        self.until(PATIENCE, World::all_vote)
    }

    /// Every site runs and votes, and nobody is about to leave, for a while already.
    pub fn is_settled(&mut self) -> bool {
        if !self.leaving.is_empty() || !self.all_vote() {
            self.settled_since = None;
            return false;
        }
        let since = *self.settled_since.get_or_insert(self.now);
        self.now >= since + SETTLED
    }

    /// Every site runs, and votes as far as the leader knows.
    pub fn all_vote(&mut self) -> bool {
        if !(0..self.sites.len()).all(|number| self.is_up(number)) {
            return false;
        }
        let looks: Vec<Look> = (0..self.sites.len()).filter_map(|number| self.look(number)).collect();
        let members: std::collections::BTreeSet<u64> = looks.iter().map(|look| look.member).collect();
        looks.iter().all(|look| look.settled && look.voters == members && look.learners.is_empty())
    }

    pub fn open_for_traffic(&mut self) {
        self.traffic = true;
        for number in 0..self.sites.len() {
            if self.is_up(number) {
                self.begin_traffic(number);
            }
        }
    }

    /// One client on each server writes and reads, until both were done once.
    pub fn demand_service(&mut self) -> bool {
        let served: Arc<Mutex<Vec<bool>>> = Arc::new(Mutex::new(vec![false; self.sites.len()]));
        // Of each site, the life in which it was asked last.
        let mut asked = vec![0; self.sites.len()];
        self.until(PATIENCE, |world| {
            for (number, asked) in asked.iter_mut().enumerate() {
                let life = world.sites[number].life;
                if world.is_up(number) && *asked != life {
                    *asked = life;
                    world.probe(number, Arc::clone(&served));
                }
            }
            served.lock().iter().all(|served| *served)
        })
    }

    fn probe(&mut self, number: usize, served: Arc<Mutex<Vec<bool>>>) {
        let site = &self.sites[number];
        let Some(store) = site.store.clone() else { return };
        let front = Front { store, verbs: site.verbs.clone() };
        let id = (self.next_client, site.server);
        self.next_client += 1;
        let (record, pulse) = (Arc::clone(&self.record), Arc::clone(&site.pulse));
        let mut client = Client::new(id, front, Arc::clone(&record), pulse, self.plan.think, self.plan.seed);
        let key = Key::from(format!("probe/{number}"));
        site.host.spawn(async move {
            loop {
                let put = client.perform(Action::put(&key, record.new_value())).await;
                let get = client.perform(Action::get(&key)).await;
                if matches!((put, get), (Outcome::Done { .. }, Outcome::Found { .. })) {
                    served.lock()[number] = true;
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }

    /// Clients end with their current request. Returns whether all servers then agree, and no lease is left.
    pub fn come_to_rest(&mut self) -> bool {
        self.closing.stop();
        let longest = self.plan.timings.request * 2 + Duration::from_secs(1);
        let calm = self.now + longest;
        self.until(longest + PATIENCE, |world| world.now >= calm && world.agree())
    }

    fn agree(&self) -> bool {
        let looks: Vec<Look> = (0..self.sites.len()).filter_map(|number| self.look(number)).collect();
        let Some(first) = looks.first() else { return false };
        looks.len() == self.sites.len()
            && looks.iter().all(|look| {
                look.leases.is_empty()
                    && look.applied == first.applied
                    && (look.revision, look.state_hash) == (first.revision, first.state_hash)
            })
    }

    /// How each server stands, for a person to read.
    pub fn describe(&self) -> String {
        let of = |number: usize| {
            let site = &self.sites[number];
            match self.look(number) {
                Some(look) => format!(
                    "server {} (member {}): term {}, leads {}, voters {:?}, learners {:?}, applied {:?}, last {}, revision {}, \
                     hash {:x}, {} leases, runs {}",
                    site.server,
                    look.member,
                    look.term,
                    look.leads,
                    look.voters,
                    look.learners,
                    look.applied,
                    look.last,
                    look.revision,
                    look.state_hash,
                    look.leases.len(),
                    look.runs
                ),
                None if site.host.runs() => format!("server {}: opening, life {}", site.server, site.life),
                None => format!("server {}: down until {:?}", site.server, site.starts),
            }
        };
        (0..self.sites.len()).map(of).collect::<Vec<_>>().join("; ")
    }

    /// Every watcher has been given the time to see everything.
    pub fn await_watchers(&mut self) {
        let revision = (0..self.sites.len()).filter_map(|number| self.look(number)).map(|look| look.revision);
        let revision = revision.min().unwrap_or(0);
        let record = Arc::clone(&self.record);
        self.until(PATIENCE, |_| record.watches.lock().iter().all(|watched| watched.reached() >= revision));
        for watched in record.watches.lock().iter_mut() {
            watched.must_reach = Some(revision);
        }
    }

    pub fn finals(&mut self) -> Vec<Final> {
        let mut finals = Vec::new();
        for number in 0..self.sites.len() {
            self.observe(number);
            let (Some(look), Some(store)) = (self.look(number), &self.sites[number].store) else { continue };
            let Ok(range) = store.range(&kontiki_store::RangeRequest::default()) else { continue };
            let entries: Vec<(Key, Version)> = if api::is_wanted() {
                api::entries(&range)
            } else {
                range.entries.iter().map(|entry| super::client::version(&self.record, entry)).collect()
            };
            finals.push(Final {
                server: self.sites[number].server,
                revision: look.revision,
                state_hash: Some(look.state_hash),
                listed: entries.len(),
                entries: entries.into_iter().collect(),
            });
        }
        finals
    }
}
