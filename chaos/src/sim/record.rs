//! What clients, watchers and observers note in a simulated run, by the world's clock.
//!
//! Servers' clocks differ, so none of them dates anything. Within one tick, what is noted later is later: one thread runs
//! everything, and no order of the servers within a tick is wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::entropy::mix;
use super::trace::Trace;
use crate::history::{Action, Item, Operation, Outcome, ServerId, Value, Watched};
use crate::observe::{Fact, Fault, Observation};

/// One life of a server's process; nothing that ends after it does is believed.
#[derive(Debug, Default)]
pub struct Pulse(AtomicBool);

impl Pulse {
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn beats(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }
}

/// An operation that has begun.
#[derive(Clone, Copy, Debug)]
pub struct Ticket(usize);

#[derive(Debug)]
pub struct Record {
    pub trace: Arc<Trace>,
    /// Nanoseconds of the world's time; below the tick, a count.
    clock: AtomicU64,
    values: AtomicU64,
    /// Bytes of the largest values.
    pub bulk: usize,
    pub operations: Mutex<Vec<Operation>>,
    pub watches: Mutex<Vec<Watched>>,
    pub facts: Mutex<Vec<Observation>>,
    pub faults: Mutex<Vec<Fault>>,
    /// What no checker would find: bytes that nobody wrote, servers that do not open.
    pub oddities: Mutex<Vec<String>>,
}

impl Record {
    pub fn new(trace: Arc<Trace>, bulk: usize) -> Record {
        Record {
            trace,
            clock: AtomicU64::new(0),
            values: AtomicU64::new(0),
            bulk,
            operations: Mutex::default(),
            watches: Mutex::default(),
            facts: Mutex::default(),
            faults: Mutex::default(),
            oddities: Mutex::default(),
        }
    }

    pub fn set_time(&self, now: Duration) {
        self.clock.store(now.as_nanos() as u64, Ordering::Relaxed);
    }

    /// A time that no other note has.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.clock.fetch_add(1, Ordering::Relaxed))
    }

    pub fn new_value(&self) -> Value {
        self.values.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The value with padding that follows from it.
    pub fn bytes_of(&self, value: Value) -> Bytes {
        let length = match mix(value) % 64 {
            0 => self.bulk,
            1..8 => self.bulk / 16,
            other => other as usize,
        };
        let mut bytes = value.to_be_bytes().to_vec();
        bytes.extend((0..length).map(|at| (value as usize + at) as u8));
        Bytes::from(bytes)
    }

    /// The value that the bytes hold; bytes that nobody wrote are an oddity, and value 0.
    pub fn value_of(&self, bytes: &Bytes) -> Value {
        let value = bytes.first_chunk().map_or(0, |chunk| Value::from_be_bytes(*chunk));
        if self.bytes_of(value) != *bytes {
            self.odd(format!("{} bytes that nobody wrote were read as value {value}", bytes.len()));
        }
        value
    }

    pub fn odd(&self, what: String) {
        self.trace.note(self.now(), format_args!("odd: {what}"));
        self.oddities.lock().push(what);
    }

    pub fn invoke(&self, client: usize, server: ServerId, action: Action) -> Ticket {
        let invoked = self.now();
        self.trace.note(invoked, format_args!("client {client} at {server}: {action:?}"));
        let outcome = Outcome::Unknown("its server or the run ended first".to_owned());
        let mut operations = self.operations.lock();
        operations.push(Operation { client, server: Some(server), action, invoked, returned: None, outcome });
        Ticket(operations.len() - 1)
    }

    /// The operation has ended, as far as its server was alive to say so.
    pub fn complete(&self, ticket: Ticket, pulse: &Pulse, outcome: Outcome) {
        if !pulse.beats() {
            return;
        }
        let now = self.now();
        let mut operations = self.operations.lock();
        let Some(operation) = operations.get_mut(ticket.0) else { return };
        self.trace.note(now, format_args!("client {} is told {outcome:?}", operation.client));
        operation.returned = (!matches!(outcome, Outcome::Unknown(_))).then_some(now);
        operation.outcome = outcome;
    }

    pub fn add_watcher(&self, prefix: &str) -> usize {
        let mut watches = self.watches.lock();
        let watcher = watches.len();
        watches.push(Watched { watcher, prefix: prefix.to_owned(), ..Watched::default() });
        watcher
    }

    pub fn watched(&self, watcher: usize, pulse: &Pulse, item: Item) {
        if !pulse.beats() {
            return;
        }
        let now = self.now();
        self.trace.note(now, format_args!("watcher {watcher}: {item:?}"));
        if let Some(watched) = self.watches.lock().get_mut(watcher) {
            watched.items.push((now, item));
        }
    }

    pub fn reached(&self, watcher: usize) -> u64 {
        self.watches.lock().get(watcher).map_or(0, Watched::reached)
    }

    pub fn saw(&self, server: ServerId, life: usize, fact: Fact) {
        let at = self.now();
        self.facts.lock().push(Observation { at, server, life, fact });
    }

    pub fn hurt(&self, fault: Fault) -> usize {
        self.trace.note(fault.at, format_args!("fault: {}", fault.what));
        let mut faults = self.faults.lock();
        faults.push(fault);
        faults.len() - 1
    }

    pub fn healed(&self, fault: usize) {
        let now = self.now();
        if let Some(fault) = self.faults.lock().get_mut(fault) {
            fault.until.get_or_insert(now);
            self.trace.note(now, format_args!("healed: {}", fault.what));
        }
    }
}
