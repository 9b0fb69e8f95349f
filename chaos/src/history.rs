//! What clients did, when, and what they were told.
//!
//! ```text
//!  client ── invoke ──► Recorder ── complete ──► Operation { action, invoked, returned, outcome }
//!  watcher ─ note ────► Watched  { items: opened, changes, bookmark, ended, listed }
//!                                            └──────────────► History ──► check
//! ```
//!
//! Real processes and simulation record the same. Time is tokio's: the machine's, or the simulation's own.
//!
//! **Invariant:** no value is written twice in one run, so that a value names its write. **Invariant:** an operation whose
//! end nobody recorded is one of unknown outcome.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Servers by number, from 0.
pub type ServerId = usize;
pub type Key = Arc<str>;
pub type Value = u64;
pub type Revision = u64;
pub type LeaseId = u64;

/// What a key holds, and the revision of the write that put it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub value: Value,
    pub revision: Revision,
}

/// Holds when the key was last written at this revision; 0: when it is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    pub key: Key,
    pub revision: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    Put { key: Key, value: Value, lease: Option<LeaseId> },
    Delete { key: Key },
}

impl Write {
    pub fn key(&self) -> &Key {
        match self {
            Write::Put { key, .. } | Write::Delete { key } => key,
        }
    }

    pub fn value(&self) -> Option<Value> {
        match self {
            Write::Put { value, .. } => Some(*value),
            Write::Delete { .. } => None,
        }
    }
}

/// All guards hold and all writes happen, at one revision, or nothing does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub guards: Vec<Guard>,
    pub writes: Vec<Write>,
}

/// Which keys a read asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Key(Key),
    /// All keys that begin so, in key order, at most `limit` (0: all).
    Prefix {
        prefix: Key,
        limit: usize,
    },
}

impl Scope {
    pub fn covers(&self, key: &str) -> bool {
        match self {
            Scope::Key(own) => &**own == key,
            Scope::Prefix { prefix, .. } => key.starts_with(&**prefix),
        }
    }

    pub fn limit(&self) -> usize {
        match self {
            Scope::Key(_) => 0,
            Scope::Prefix { limit, .. } => *limit,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Txn(Txn),
    /// Linearizable: it sees everything acknowledged before it began. Otherwise it sees what its server had applied.
    Read {
        scope: Scope,
        linearizable: bool,
    },
    Grant {
        ttl: Duration,
    },
    Renew(LeaseId),
    Revoke(LeaseId),
}

impl Action {
    pub fn put(key: &Key, value: Value) -> Action {
        Action::Txn(Txn {
            guards: Vec::new(),
            writes: vec![Write::Put { key: key.clone(), value, lease: None }],
        })
    }

    /// A put that depends on what the client read before; revision 0 makes it a create.
    pub fn swap(key: &Key, revision: Revision, value: Value) -> Action {
        Action::Txn(Txn {
            guards: vec![Guard { key: key.clone(), revision }],
            writes: vec![Write::Put { key: key.clone(), value, lease: None }],
        })
    }

    pub fn delete(key: &Key) -> Action {
        Action::Txn(Txn { guards: Vec::new(), writes: vec![Write::Delete { key: key.clone() }] })
    }

    pub fn get(key: &Key) -> Action {
        Action::Read { scope: Scope::Key(key.clone()), linearizable: true }
    }

    pub fn is_read(&self) -> bool {
        matches!(self, Action::Read { .. })
    }

    /// What it would write.
    pub fn writes(&self) -> &[Write] {
        match self {
            Action::Txn(txn) => &txn.writes,
            _ => &[],
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done. The revision of the change, or the current one where nothing had to change; for a renewal, and where the
    /// server does not say, 0.
    Done {
        revision: Revision,
    },
    /// A guard failed: the revision it was judged at (0: not told), and what the guarded keys held, where that was told.
    Conflict {
        revision: Revision,
        current: Vec<(Key, Option<Version>)>,
    },
    /// A read's result in key order. The revision it was read at; `None` where only the objects' own are told.
    Found {
        revision: Option<Revision>,
        entries: Vec<(Key, Version)>,
    },
    Granted(LeaseId),
    /// Certainly not done, and the lease that it names does not exist.
    NoSuchLease,
    /// Certainly not done, with the server's reason.
    Refused(String),
    /// Nobody knows.
    Unknown(String),
}

/// One call of one client.
#[derive(Clone, Debug)]
pub struct Operation {
    pub client: usize,
    /// `None` for a client that goes wherever it is answered.
    pub server: Option<ServerId>,
    pub action: Action,
    /// Since the history began.
    pub invoked: Duration,
    /// `None` for an operation that is still open: of unknown outcome.
    pub returned: Option<Duration>,
    pub outcome: Outcome,
}

impl Operation {
    /// The revision the client was told that the store had, or its key.
    pub fn revision(&self) -> Option<Revision> {
        let told = match &self.outcome {
            Outcome::Done { revision } | Outcome::Conflict { revision, .. } => Some(*revision),
            Outcome::Found { revision: Some(revision), .. } => Some(*revision),
            Outcome::Found { entries, .. } => entries.iter().map(|(_, version)| version.revision).max(),
            _ => None,
        };
        told.filter(|revision| *revision > 0)
    }

    /// A transaction that was done, a read that was answered, a lease that was granted, renewed or revoked.
    pub fn is_acknowledged(&self) -> bool {
        matches!(self.outcome, Outcome::Done { .. } | Outcome::Found { .. } | Outcome::Granted(_))
    }

    /// A transaction that was acknowledged.
    pub fn is_acknowledged_write(&self) -> bool {
        matches!((&self.action, &self.outcome), (Action::Txn(_), Outcome::Done { .. }))
    }

    pub fn is_unknown(&self) -> bool {
        matches!(self.outcome, Outcome::Unknown(_))
    }

    /// Certainly without effect.
    pub fn is_refused(&self) -> bool {
        matches!(self.outcome, Outcome::Refused(_) | Outcome::NoSuchLease | Outcome::Conflict { .. })
    }

    pub fn is_linearizable_read(&self) -> bool {
        matches!(self.action, Action::Read { linearizable: true, .. })
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}", self.client)?;
        if let Some(server) = self.server {
            write!(f, " on server {server}")?;
        }
        write!(f, ", {:.3?}", self.invoked)?;
        match self.returned {
            Some(returned) => write!(f, "–{returned:.3?}")?,
            None => write!(f, "–open")?,
        }
        write!(f, ": {:?} → {:?}", self.action, self.outcome)
    }
}

/// An operation that has begun.
#[derive(Clone, Copy, Debug)]
pub struct Ticket(usize);

/// Collects operations from many clients.
#[derive(Debug)]
pub struct Recorder {
    begin: Instant,
    operations: Mutex<Vec<Operation>>,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder { begin: Instant::now(), operations: Mutex::default() }
    }
}

impl Recorder {
    /// Time since the history began.
    pub fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// An operation begins; it is of unknown outcome until it is completed.
    pub fn invoke(&self, client: usize, server: Option<ServerId>, action: Action) -> Ticket {
        let invoked = self.now();
        let mut operations = self.operations.lock();
        let outcome = Outcome::Unknown("the run ended before it did".into());
        operations.push(Operation { client, server, action, invoked, returned: None, outcome });
        Ticket(operations.len() - 1)
    }

    /// It has ended; an unknown outcome leaves it open.
    pub fn complete(&self, ticket: Ticket, outcome: Outcome) {
        let returned = (!matches!(outcome, Outcome::Unknown(_))).then(|| self.now());
        if let Some(operation) = self.operations.lock().get_mut(ticket.0) {
            operation.returned = returned;
            operation.outcome = outcome;
        }
    }

    /// An operation that was not recorded when it began.
    pub fn record(
        &self,
        (client, server): (usize, Option<ServerId>),
        action: Action,
        invoked: Duration,
        outcome: Outcome,
    ) {
        let returned = (!matches!(outcome, Outcome::Unknown(_))).then(|| self.now());
        self.operations.lock().push(Operation { client, server, action, invoked, returned, outcome });
    }

    /// All operations so far, by invocation.
    pub fn operations(&self) -> Vec<Operation> {
        let mut operations = self.operations.lock().clone();
        operations.sort_by_key(|operation| operation.invoked);
        operations
    }
}

/// One key's change as a watcher saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: Key,
    /// `None`: deleted.
    pub value: Option<Value>,
    /// What the key held before: `None` where the stream does not tell, `Some(None)` where it told that it was absent.
    pub previous: Option<Option<Version>>,
}

/// Why a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The watcher was told to list again.
    ListAgain(String),
    /// The connection or the server went away; the watcher may resume where it was.
    Broken(String),
}

/// What happened to a watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A stream of everything after this revision was accepted by this server.
    Opened {
        server: ServerId,
        after: Revision,
    },
    /// Changes that came together.
    Changes {
        revision: Revision,
        changes: Vec<Change>,
    },
    /// Everything up to this revision has been delivered.
    Bookmark(Revision),
    Ended(End),
    /// The watcher read the state anew and goes on from its revision.
    Listed {
        revision: Revision,
        entries: Vec<(Key, Version)>,
    },
}

/// One watcher's record, over however many connections.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    pub watcher: usize,
    pub prefix: String,
    pub items: Vec<(Duration, Item)>,
    /// What it must have reached at the end, having been given the time; `None` where nobody waited for it.
    pub must_reach: Option<Revision>,
}

impl Watched {
    /// The revision up to which it knows everything.
    pub fn reached(&self) -> Revision {
        let mut reached = 0;
        for (_, item) in &self.items {
            match item {
                Item::Opened { after, .. } => reached = reached.max(*after),
                Item::Changes { revision, .. } | Item::Bookmark(revision) | Item::Listed { revision, .. } => {
                    reached = reached.max(*revision);
                }
                Item::Ended(_) => {}
            }
        }
        reached
    }

    pub fn events(&self) -> usize {
        let count = |item: &Item| match item {
            Item::Changes { changes, .. } => changes.len(),
            _ => 0,
        };
        self.items.iter().map(|(_, item)| count(item)).sum()
    }

    pub fn connections(&self) -> usize {
        self.items.iter().filter(|(_, item)| matches!(item, Item::Opened { .. })).count()
    }
}

/// The state at the end as one server tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Final {
    pub server: ServerId,
    pub revision: Revision,
    /// `None` where only clients look and no server tells.
    pub state_hash: Option<u64>,
    pub entries: BTreeMap<Key, Version>,
    /// How many entries a list returned, keys that came twice included.
    pub listed: usize,
}

/// All that clients can know of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// By invocation.
    pub operations: Vec<Operation>,
    pub watches: Vec<Watched>,
    pub finals: Vec<Final>,
}
