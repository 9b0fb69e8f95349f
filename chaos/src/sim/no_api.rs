//! What stands for [`super::api`] where the API server is not built in: nobody asks for verbs.

use std::sync::Arc;
use std::time::Duration;

use kontiki_store::{Range, Store};
use rand::rngs::SmallRng;

use super::record::{Pulse, Record};
use crate::history::{Action, Key, Outcome, ServerId, Version};

/// There are none.
#[derive(Clone)]
pub enum Verbs {}

pub fn is_wanted() -> bool {
    false
}

pub fn set_wall_clock(_: Duration) {}

pub fn serve(_: &Store) -> Option<Verbs> {
    None
}

pub fn choose(verbs: &Verbs, _: &mut SmallRng, _: &Record, _: &[u64]) -> Action {
    match *verbs {}
}

pub async fn execute(verbs: &Verbs, _: &Record, _: &Action) -> Outcome {
    match *verbs {}
}

pub async fn watch(_: usize, _: ServerId, verbs: Verbs, _: Arc<Record>, _: Arc<Pulse>, _: u64) {
    match verbs {}
}

pub fn entries(_: &Range) -> Vec<(Key, Version)> {
    Vec::new()
}
