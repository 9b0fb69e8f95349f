//! Records events: alike ones are counted on one object, a flood from one source is cut off.
//!
//! Recording never holds up the work: the queue is bounded, and what does not fit is dropped and counted in the log.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kontiki_proto::api::{ApiExt, DynApi, PatchType, WriteOptions, encode};
use kontiki_proto::{Status, Target};
use tokio::sync::mpsc;

use super::Clock;
use super::plan::{EventSpec, Severity, seconds};

/// Events that wait to be written.
const QUEUE: usize = 8192;
/// Writes under way at once: events yield to everything else.
const PARALLEL: usize = 4;
/// Sources and texts remembered; beyond it the memory starts afresh.
const MEMORY: usize = 4096;
/// Events one object may cause in a burst, and the time after which it may cause one more.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// Different messages with one reason about one object in [`WINDOW`] before they are combined.
const SIMILAR: usize = 10;
const WINDOW: Duration = Duration::from_secs(600);

#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<EventSpec>,
}

impl Recorder {
    /// The recorder, and the task that writes; it ends when the last recorder is dropped.
    pub fn new(api: DynApi, clock: Clock, instance: String) -> (Recorder, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Recorder { sender }, write(api, clock, instance, receiver))
    }

    /// Never blocks.
    pub fn record(&self, event: EventSpec) {
        if let Err(error) = self.sender.try_send(event) {
            tracing::debug!(%error, "an event is dropped");
        }
    }
}

async fn write(api: DynApi, clock: Clock, instance: String, receiver: mpsc::Receiver<EventSpec>) {
    let correlator = Arc::new(parking_lot::Mutex::new(Correlator::default()));
    tokio_stream::wrappers::ReceiverStream::new(receiver)
        .for_each_concurrent(PARALLEL, |event| {
            let decision = correlator.lock().decide(&event, clock.now());
            let (api, correlator, instance, now) = (api.clone(), correlator.clone(), &instance, clock.now());
            async move {
                let result = match decision {
                    Decision::Drop => return,
                    Decision::Count { namespace, name, count } => {
                        count_up(&api, &namespace, &name, count, now).await
                    }
                    Decision::Create { message } => {
                        let object = render(&event, &message, instance, now);
                        let result = api.create_as(&object).await.map(drop);
                        if result.is_ok() {
                            correlator.lock().created(&event, &message, &object);
                        }
                        result
                    }
                };
                if let Err(status) = result {
                    tracing::debug!(%status, reason = event.reason, "an event could not be written");
                }
            }
        })
        .await;
}

async fn count_up(
    api: &DynApi,
    namespace: &str,
    name: &str,
    count: i32,
    now: Timestamp,
) -> Result<(), Status> {
    let target = Target::kind::<Event>().within(namespace).named(name);
    let body = serde_json::json!({"count": count, "lastTimestamp": Time(now)});
    api.patch(&target, PatchType::Merge, encode(&body)?, &WriteOptions::default()).await.map(drop)
}

/// The namespace an event about the object lies in.
fn namespace_of(event: &EventSpec) -> &str {
    event.regarding.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default")
}

fn render(event: &EventSpec, message: &str, instance: &str, now: Timestamp) -> Event {
    let name = event.regarding.name.as_deref().unwrap_or_default();
    // Unique without a random part in the common case: one object, one instant to the nanosecond.
    let suffix = format!("{:x}{:04x}", now.as_nanosecond(), rand::random::<u16>());
    Event {
        metadata: ObjectMeta {
            namespace: Some(namespace_of(event).into()),
            name: Some(format!("{name}.{suffix}")),
            ..ObjectMeta::default()
        },
        involved_object: event.regarding.clone(),
        type_: Some(
            match event.severity {
                Severity::Normal => "Normal",
                Severity::Warning => "Warning",
            }
            .into(),
        ),
        reason: Some(event.reason.clone()),
        message: Some(message.into()),
        count: Some(1),
        first_timestamp: Some(Time(seconds(now))),
        last_timestamp: Some(Time(seconds(now))),
        source: Some(EventSource { component: Some(event.component.into()), host: None }),
        reporting_component: Some(event.component.into()),
        reporting_instance: Some(instance.into()),
        ..Event::default()
    }
}

#[derive(Debug, PartialEq)]
enum Decision {
    Drop,
    Create { message: String },
    Count { namespace: String, name: String, count: i32 },
}

type Source = (String, &'static str);
type Group = (String, &'static str, String);

/// Decides what becomes of an event; holds what was decided before.
#[derive(Default)]
struct Correlator {
    buckets: HashMap<Source, (f64, Timestamp)>,
    /// Messages seen per object and reason, since when.
    groups: HashMap<Group, (Timestamp, Vec<String>)>,
    /// Where an event with this text was written, and how often it was seen.
    written: HashMap<(Group, String), (String, String, i32)>,
}

impl Correlator {
    fn source(event: &EventSpec) -> Source {
        let about = &event.regarding;
        let part = |value: &Option<String>| value.clone().unwrap_or_default();
        let key = [part(&about.kind), part(&about.namespace), part(&about.name), part(&about.uid)].join("/");
        (key, event.component)
    }

    fn group(event: &EventSpec) -> Group {
        let (source, component) = Self::source(event);
        (source, component, event.reason.clone())
    }

    fn decide(&mut self, event: &EventSpec, now: Timestamp) -> Decision {
        if self.buckets.len() > MEMORY || self.groups.len() > MEMORY || self.written.len() > MEMORY {
            *self = Correlator::default();
        }
        let (tokens, last) = self.buckets.entry(Self::source(event)).or_insert((BURST, now));
        let refilled = now.duration_since(*last).as_secs_f64().max(0.0) / REFILL.as_secs_f64();
        (*tokens, *last) = ((*tokens + refilled).min(BURST), now);
        if *tokens < 1.0 {
            return Decision::Drop;
        }
        *tokens -= 1.0;

        let group = Self::group(event);
        let (since, messages) = self.groups.entry(group.clone()).or_insert((now, Vec::new()));
        if Duration::try_from(now.duration_since(*since)).unwrap_or_default() > WINDOW {
            (*since, *messages) = (now, Vec::new());
        }
        let known = messages.contains(&event.message);
        let message = if known || messages.len() < SIMILAR {
            if !known {
                messages.push(event.message.clone());
            }
            event.message.clone()
        } else {
            format!("(combined from similar events): {}", event.message)
        };
        let key = (group, Self::text(&message));
        match self.written.get_mut(&key) {
            Some((namespace, name, count)) => {
                *count += 1;
                Decision::Count { namespace: namespace.clone(), name: name.clone(), count: *count }
            }
            None => Decision::Create { message },
        }
    }

    /// All combined events of a group are one.
    fn text(message: &str) -> String {
        let combined = "(combined from similar events)";
        if message.starts_with(combined) { combined.into() } else { message.into() }
    }

    fn created(&mut self, event: &EventSpec, message: &str, object: &Event) {
        let part = |value: &Option<String>| value.clone().unwrap_or_default();
        let place = (part(&object.metadata.namespace), part(&object.metadata.name), 1);
        self.written.insert((Self::group(event), Self::text(message)), place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ObjectReference;

    fn event(message: &str) -> EventSpec {
        EventSpec {
            regarding: ObjectReference { name: Some("web".into()), ..ObjectReference::default() },
            severity: Severity::Normal,
            component: "replicaset-controller",
            reason: "SuccessfulCreate".into(),
            message: message.into(),
        }
    }

    fn see(correlator: &mut Correlator, event: &EventSpec, now: Timestamp) -> Decision {
        let decision = correlator.decide(event, now);
        if let Decision::Create { message } = &decision {
            correlator.created(event, message, &render(event, message, "test", now));
        }
        decision
    }

    #[test]
    fn the_same_event_again_is_counted() {
        let (mut correlator, now) = (Correlator::default(), Timestamp::UNIX_EPOCH);
        assert!(matches!(see(&mut correlator, &event("a"), now), Decision::Create { .. }));
        assert!(matches!(see(&mut correlator, &event("a"), now), Decision::Count { count: 2, .. }));
        assert!(matches!(see(&mut correlator, &event("a"), now), Decision::Count { count: 3, .. }));
    }

    #[test]
    fn many_alike_are_combined_and_a_flood_is_cut_off() {
        let (mut correlator, now) = (Correlator::default(), Timestamp::UNIX_EPOCH);
        let decisions: Vec<_> =
            (0..40).map(|i| see(&mut correlator, &event(&format!("Created pod: web-{i}")), now)).collect();
        assert!(decisions[..10].iter().all(|d| matches!(d, Decision::Create { .. })));
        let Decision::Create { message } = &decisions[10] else { panic!("{:?}", decisions[10]) };
        assert_eq!(message, "(combined from similar events): Created pod: web-10");
        assert!(decisions[11..25].iter().all(|d| matches!(d, Decision::Count { .. })));
        assert!(decisions[25..].iter().all(|d| *d == Decision::Drop));
    }
}
