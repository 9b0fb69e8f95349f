//! What was seen of the servers themselves, beside what clients were told; and what was done to them.
//!
//! The simulation looks into every server; of real processes, `cluster status` tells a part. A checker that finds nothing
//! to look at passes: how much a run was observed is the run's business.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::history::{LeaseId, Revision, ServerId};

/// A log entry's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    pub term: u64,
    pub index: u64,
}

/// For whom a server has voted; durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vote {
    pub term: u64,
    pub candidate: ServerId,
}

/// One look at one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Its consensus takes this server for the leader of the term.
    Leads {
        term: u64,
    },
    /// It no longer does.
    Follows {
        term: u64,
    },
    Voted(Vote),
    /// An entry it holds. The hash is of the entry's bytes.
    Logged {
        at: LogId,
        hash: u64,
    },
    /// It dropped its log from this index on, to take another leader's.
    Truncated {
        from: u64,
    },
    /// An entry it has applied: it takes it for committed.
    Applied {
        at: LogId,
        hash: u64,
    },
    /// The state it has at a revision.
    State {
        revision: Revision,
        hash: u64,
    },
    /// All leases it knows, with their time to live, at a revision.
    Leases {
        revision: Revision,
        leases: BTreeMap<LeaseId, Duration>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    pub at: Duration,
    pub server: ServerId,
    /// How often the server had been started.
    pub life: usize,
    pub fact: Fact,
}

/// What was done to servers, network or disks, in words; and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub at: Duration,
    /// `None`: it lasted to the end, or had no length.
    pub until: Option<Duration>,
    pub what: String,
    /// The sides of a partition: servers that reach one another. Empty for other faults.
    pub sides: Vec<BTreeSet<ServerId>>,
}

impl Fault {
    /// The side a server is on, where the fault is a partition in force then.
    pub fn side_of(&self, server: ServerId, at: Duration) -> Option<&BTreeSet<ServerId>> {
        let in_force = self.at <= at && self.until.is_none_or(|until| at <= until);
        self.sides.iter().find(|side| in_force && side.contains(&server))
    }
}

/// All that was seen of the servers in a run.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    pub servers: usize,
    /// Voters at the end, where membership changed; empty: all servers.
    pub voters: BTreeSet<ServerId>,
    /// By time.
    pub facts: Vec<Observation>,
    pub faults: Vec<Fault>,
    /// When the last fault was undone and every server ran. `None`: it never was, and nothing is demanded.
    pub healed: Option<Duration>,
    /// How long after that service may take to resume on every server, and leases to go.
    pub patience: Duration,
    /// How much faster than the run's time a server's clock may run, in parts of a thousand.
    pub drift_permille: u32,
    /// When the run ended.
    pub ended: Duration,
}

impl Observations {
    /// The servers of whom something is demanded at the end.
    pub fn members(&self) -> BTreeSet<ServerId> {
        if self.voters.is_empty() { (0..self.servers).collect() } else { self.voters.clone() }
    }
}

/// Collects what is seen, from everywhere.
#[derive(Debug)]
pub struct Observer {
    begin: Instant,
    facts: Mutex<Vec<Observation>>,
    faults: Mutex<Vec<Fault>>,
}

impl Default for Observer {
    fn default() -> Observer {
        Observer { begin: Instant::now(), facts: Mutex::default(), faults: Mutex::default() }
    }
}

/// A fault that has begun.
#[derive(Clone, Copy, Debug)]
pub struct FaultTicket(usize);

impl Observer {
    pub fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    pub fn saw(&self, server: ServerId, life: usize, fact: Fact) {
        self.facts.lock().push(Observation { at: self.now(), server, life, fact });
    }

    /// A fault begins.
    pub fn hurt(&self, what: impl Into<String>, sides: Vec<BTreeSet<ServerId>>) -> FaultTicket {
        let mut faults = self.faults.lock();
        faults.push(Fault { at: self.now(), until: None, what: what.into(), sides });
        FaultTicket(faults.len() - 1)
    }

    /// It is undone.
    pub fn heal(&self, ticket: FaultTicket) {
        if let Some(fault) = self.faults.lock().get_mut(ticket.0) {
            fault.until.get_or_insert(self.now());
        }
    }

    /// All that was seen so far; what is demanded of the run is the caller's to fill in.
    pub fn observations(&self, servers: usize) -> Observations {
        Observations {
            servers,
            facts: self.facts.lock().clone(),
            faults: self.faults.lock().clone(),
            ended: self.now(),
            ..Observations::default()
        }
    }
}
