//! What was asked, what was answered, and when: the only evidence checkers see.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Time since the history began.
pub type Moment = Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sets a register to a value no other write has.
    Write { register: u32, value: u64 },
    /// Reads a register.
    Read { register: u32 },
    /// Creates an object of a name no other create has.
    Create { name: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged; for reads the value, `None` before the first write. With the object's revision.
    Done { value: Option<u64>, revision: u64 },
    /// Refused with nothing changed.
    Refused,
    /// No answer, or one that says that nobody knows.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub client: usize,
    /// The server that was asked.
    pub server: u8,
    pub action: Action,
    pub invoked: Moment,
    /// When the answer came, or the client gave up.
    pub returned: Moment,
    pub outcome: Outcome,
}

/// Operations in the order their answers came. Shared by all clients.
pub struct History {
    begun: Instant,
    operations: Mutex<Vec<Operation>>,
}

impl Default for History {
    fn default() -> History {
        History { begun: Instant::now(), operations: Mutex::default() }
    }
}

impl History {
    pub fn now(&self) -> Moment {
        self.begun.elapsed()
    }

    pub fn record(&self, operation: Operation) {
        self.operations.lock().push(operation);
    }

    pub fn operations(&self) -> Vec<Operation> {
        self.operations.lock().clone()
    }

    /// How many operations were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.operations.lock().iter().filter(|o| matches!(o.outcome, Outcome::Done { .. })).count()
    }

    /// Names whose creation was acknowledged.
    pub fn created(&self) -> Vec<String> {
        let operations = self.operations.lock();
        let created = operations.iter().filter_map(|o| match (&o.action, &o.outcome) {
            (Action::Create { name }, Outcome::Done { .. }) => Some(name.clone()),
            _ => None,
        });
        created.collect()
    }
}
