//! Carries plans out through the `Api`.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use kontiki_proto::api::{DynApi, ListOptions, WriteOptions, encode};
use kontiki_proto::{Status, Target};
use serde::Deserialize;
use smol_str::SmolStr;
use tokio::sync::Semaphore;

use super::events::Recorder;
use super::hub::Expectation;
use super::plan::{Action, EventSpec, Operation};
use super::world::{Key, KindId};

/// Writes under way at once, over all controllers.
const PARALLEL: usize = 64;
/// Creates in the first batch; each later one is twice as large, so that a hopeless cause fails few times.
const FIRST_BATCH: usize = 1;

#[derive(Clone)]
pub struct Executor {
    api: DynApi,
    recorder: Recorder,
    limit: Arc<Semaphore>,
}

/// What came of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What the world has to show before the key is looked at again.
    pub expected: Vec<Expectation>,
    /// The first failure; actions behind it were not tried.
    pub failure: Option<Status>,
}

type Performed = Result<Option<Expectation>, Status>;

#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    metadata: WrittenMetadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WrittenMetadata {
    name: String,
    resource_version: String,
}

impl Executor {
    pub fn new(api: DynApi, recorder: Recorder) -> Executor {
        Executor { api, recorder, limit: Arc::new(Semaphore::new(PARALLEL)) }
    }

    pub async fn execute(&self, actions: &[Action]) -> Outcome {
        let mut outcome = Outcome::default();
        let mut chain = Chain::default();
        let mut rest = actions;
        while let Some(first) = rest.first() {
            let alike = |action: &&Action| {
                std::mem::discriminant(&action.operation) == std::mem::discriminant(&first.operation)
                    && action.target.resource == first.target.resource
                    && action.target.subresource == first.target.subresource
            };
            let parallel = !matches!(first.operation, Operation::Update { .. });
            let run = if parallel { rest.iter().take_while(alike).count() } else { 1 };
            let (group, later) = rest.split_at(run);
            rest = later;
            let slow_start = matches!(first.operation, Operation::Create { .. });
            let mut batch = if slow_start { FIRST_BATCH } else { group.len() };
            let group: Vec<_> = group.iter().map(|action| chain.follow(action)).collect();
            let mut group = group.as_slice();
            while !group.is_empty() {
                let (now, later) = group.split_at(batch.min(group.len()));
                let results: Vec<_> = futures::stream::iter(0..now.len())
                    .map(|index| self.perform_one(now, index))
                    .buffer_unordered(PARALLEL)
                    .collect()
                    .await;
                for (index, result) in results {
                    match result {
                        Ok(expected) => {
                            if let Some(Expectation::Seen(_, revision)) = &expected {
                                chain.extend(&now[index], *revision);
                            }
                            outcome.expected.extend(expected);
                        }
                        Err(status) => drop(outcome.failure.get_or_insert(status)),
                    }
                }
                if outcome.failure.is_some() {
                    return outcome;
                }
                (group, batch) = (later, batch.saturating_mul(2));
            }
        }
        outcome
    }

    async fn perform_one(&self, actions: &[Action], index: usize) -> (usize, Performed) {
        (index, self.perform(&actions[index]).await)
    }

    async fn perform(&self, action: &Action) -> Performed {
        let result = self.call(action).await;
        match &result {
            Ok((name, _)) => self.say(action.on_success.as_ref(), "{name}", name),
            // Nothing can be made in a namespace that is going away, and nobody needs to hear it.
            Err(status) if status.code == 403 && status.message.contains("being terminated") => {}
            Err(status) => self.say(action.on_failure.as_ref(), "{error}", &status.message),
        }
        result.map(|(_, expectation)| expectation)
    }

    fn say(&self, event: Option<&EventSpec>, placeholder: &str, value: &str) {
        if let Some(event) = event {
            let message = event.message.replace(placeholder, value);
            self.recorder.record(EventSpec { message, ..event.clone() });
        }
    }

    async fn call(&self, action: &Action) -> Result<(String, Option<Expectation>), Status> {
        let target = &action.target;
        if action.operation == Operation::Report {
            return Ok((String::new(), None));
        }
        let _permit = self.limit.acquire().await.map_err(|_| Status::unavailable("shutting down"))?;
        let options = WriteOptions::default();
        let answer = match &action.operation {
            Operation::Report => return Ok((String::new(), None)),
            Operation::Create { body } => self.api.create(target, encode(body)?, &options).await?,
            Operation::Update { body } => self.api.update(target, encode(body)?, &options).await?,
            Operation::Patch { patch_type, body } => {
                match self.api.patch(target, *patch_type, encode(body)?, &options).await {
                    // What is gone needs no change.
                    Err(status) if status.is_not_found() => return Ok((String::new(), None)),
                    answer => answer?,
                }
            }
            Operation::Delete { options } => {
                match self.api.delete(target, options).await {
                    Ok(_) => {}
                    Err(status) if status.is_not_found() => {}
                    Err(status) => return Err(status),
                }
                let uid = options.preconditions.as_ref().and_then(|p| p.uid.clone()).unwrap_or_default();
                let key = Key { namespace: target.namespace.clone(), name: target.name.clone() };
                let gone = KindId::of(target).map(|kind| Expectation::Gone(kind, key, uid));
                return Ok((target.name.to_string(), gone));
            }
            Operation::DeleteCollection => {
                let all = ListOptions::default();
                self.api.delete_collection(target, &all, &Default::default()).await?;
                return Ok((String::new(), None));
            }
        };
        Ok(written(target, &answer))
    }
}

/// Versions our own writes of this plan led to. A later action on the same object was decided on the version before
/// them; since they were guarded by it, nobody else has written in between.
#[derive(Default)]
struct Chain {
    newest: HashMap<(SmolStr, SmolStr, Key), (String, String)>,
}

impl Chain {
    fn object(action: &Action) -> (SmolStr, SmolStr, Key) {
        let target = &action.target;
        let key = Key { namespace: target.namespace.clone(), name: target.name.clone() };
        (target.group.clone(), target.resource.clone(), key)
    }

    fn guard(action: &Action) -> Option<&str> {
        match &action.operation {
            Operation::Update { body } | Operation::Patch { body, .. } => {
                body.get("metadata")?.get("resourceVersion")?.as_str()
            }
            _ => None,
        }
    }

    fn extend(&mut self, action: &Action, revision: u64) {
        let Some(guard) = Self::guard(action) else { return };
        let first = self.newest.get(&Self::object(action)).map_or(guard, |(first, _)| first).to_string();
        self.newest.insert(Self::object(action), (first, revision.to_string()));
    }

    fn follow(&self, action: &Action) -> Action {
        let mut action = action.clone();
        let newest = self.newest.get(&Self::object(&action));
        if let Some((first, last)) = newest.filter(|(first, _)| Self::guard(&action) == Some(first))
            && let Operation::Update { body } | Operation::Patch { body, .. } = &mut action.operation
        {
            tracing::trace!(from = first, to = last, "follows its own write");
            body["metadata"]["resourceVersion"] = last.as_str().into();
        }
        action
    }
}

fn written(target: &Target, answer: &[u8]) -> (String, Option<Expectation>) {
    let Ok(written) = serde_json::from_slice::<Written>(answer) else { return (String::new(), None) };
    let revision = written.metadata.resource_version.parse().ok();
    let expected = KindId::of(target).zip(revision).map(|(kind, revision)| Expectation::Seen(kind, revision));
    (written.metadata.name, expected)
}
