//! What clients did, when, and what they were told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A register is a ConfigMap that holds one number; no number is ever written twice in a run.
pub type Register = u32;
pub type Value = u64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Read(Register),
    /// Whatever was there before.
    Write(Register, Value),
    /// Guarded by the revision the client read `expected` at.
    Swap {
        register: Register,
        expected: Value,
        value: Value,
    },
    /// A new object with a name of its own.
    Create(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, at this revision.
    Done { revision: u64 },
    /// A read's result.
    Found { value: Value, revision: u64 },
    /// Certainly not done, with the server's reason.
    Refused(String),
    /// Nobody knows.
    Unknown(String),
}

/// One call of one client.
#[derive(Clone, Debug)]
pub struct Operation {
    pub client: usize,
    pub server: Option<usize>,
    pub action: Action,
    /// Since the history began.
    pub invoked: Duration,
    /// `None` for an operation that is still open.
    pub returned: Option<Duration>,
    pub outcome: Outcome,
}

impl Operation {
    pub fn register(&self) -> Option<Register> {
        match self.action {
            Action::Read(register) | Action::Write(register, _) | Action::Swap { register, .. } => {
                Some(register)
            }
            Action::Create(_) => None,
        }
    }

    /// What it writes to its register.
    pub fn written(&self) -> Option<Value> {
        match self.action {
            Action::Write(_, value) | Action::Swap { value, .. } => Some(value),
            Action::Read(_) | Action::Create(_) => None,
        }
    }

    /// The revision the client was told, for reads and writes.
    pub fn revision(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Done { revision } | Outcome::Found { revision, .. } => Some(revision),
            Outcome::Refused(_) | Outcome::Unknown(_) => None,
        }
    }

    pub fn is_acknowledged(&self) -> bool {
        self.revision().is_some()
    }
}

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

    pub fn record(
        &self,
        (client, server): (usize, Option<usize>),
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

/// An event as a watcher saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub revision: u64,
    pub event: &'static str,
    pub name: String,
    pub value: Option<Value>,
}

/// One watcher's record: everything after `start`, in the order it came, over however many connections.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    pub server: usize,
    pub start: u64,
    pub seen: Vec<Seen>,
    /// How often it connected.
    pub connections: usize,
    /// Positions in `seen` before which the watcher was told to list again, and the revision of that list.
    pub relisted: BTreeMap<usize, u64>,
}

/// The state at the end, as each server tells it.
#[derive(Clone, Debug, Default)]
pub struct Final {
    pub revision: u64,
    /// Objects by name with the revision of their last write.
    pub objects: BTreeMap<String, u64>,
    /// How many objects a list returned, names that came twice included.
    pub listed: usize,
}
