//! The controllers of Kontiki: what turns the wishes in the API into pods on nodes.
//!
//! ```text
//!   run ──▶ lease kontiki-controllers ──elected──▶ informers ──▶ World ──▶ every controller of `all()`
//!                                                  └─ garbage collector with a graph of its own
//!       └─▶ lease kontiki-scheduler   ──elected──▶ scheduler
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`runtime`] | world, queue, plans and their execution, events, leader election |
//! | [`workloads`] | Deployment, ReplicaSet and their kin |
//! | [`cluster`] | nodes, namespaces, garbage |
//! | [`network`] | EndpointSlices and Endpoints |
//! | [`scheduler`] | which pod goes to which node |
//! | [`objects`] | small questions about API objects |
//!
//! **Invariants.** This crate sees the `Api` trait and nothing behind it. A reconcile is a pure function of the world,
//! a key and the time. Carrying out a plan and planning again at the same time gives an empty plan. Two instances at
//! once do no harm: every action carries the uid or the version it was decided on.

pub mod cluster;
pub mod network;
pub mod objects;
pub mod runtime;
pub mod scheduler;
#[cfg(test)]
mod sim;
pub mod workloads;

use std::sync::Arc;
use std::time::Duration;

use kontiki_proto::DynApi;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use runtime::{Clock, Controller, Election, Executor, Hub, Kind, Recorder, Visitor, visit_kinds};

/// What an instance is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names this instance in leases; unique among all.
    pub identity: String,
    /// Certificates pods check the API server by, in PEM. Empty: none is published.
    pub root_ca_pem: String,
    /// Range the nodes' pod ranges are taken from, such as `10.244.0.0/16`.
    pub pod_cidr: String,
    /// Silence after which a node counts as lost.
    pub node_grace: Duration,
    pub lease: LeaseTimings,
    pub clock: Clock,
}

/// When leadership is renewed and lost. `renew` < `renew_deadline` < `duration`.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTimings {
    /// How long a lease holds without renewal; whole seconds.
    pub duration: Duration,
    /// Without renewal for this long the leader stops by itself.
    pub renew_deadline: Duration,
    pub renew: Duration,
    /// Pause between attempts to become leader.
    pub retry: Duration,
}

impl Default for LeaseTimings {
    fn default() -> LeaseTimings {
        LeaseTimings {
            duration: Duration::from_secs(5),
            renew_deadline: Duration::from_millis(3500),
            renew: Duration::from_secs(1),
            retry: Duration::from_millis(500),
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            identity: format!("kontiki-{:08x}", rand::random::<u32>()),
            root_ca_pem: String::new(),
            pod_cidr: "10.244.0.0/16".into(),
            node_grace: Duration::from_secs(40),
            lease: LeaseTimings::default(),
            clock: Clock::system(),
        }
    }
}

/// What controllers may ask of the options.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub root_ca_pem: String,
    pub pod_cidr: String,
    pub node_grace: Duration,
}

/// Every controller.
pub fn all() -> Vec<Controller> {
    vec![
        workloads::replica_set::controller(),
        workloads::deployment::controller(),
        workloads::replication_controller::controller(),
        workloads::daemon_set::controller(),
        workloads::stateful_set::controller(),
        workloads::job::controller(),
        workloads::finished::controller(),
        workloads::cron_job::controller(),
        workloads::disruption_budget::controller(),
        cluster::namespace::controller(),
        cluster::namespace_content::controller(),
        cluster::node_addresses::controller(),
        cluster::node_lifecycle::controller(),
        cluster::taint_eviction::controller(),
        cluster::pod_collector::controller(),
        network::endpoint_slices::controller(),
        network::endpoints::controller(),
    ]
}

/// Runs controllers and scheduler, each while elected, until `shutdown`; gives its leases back then.
pub async fn run(api: DynApi, options: Options, shutdown: CancellationToken) {
    let election = |name| Election {
        api: api.clone(),
        namespace: "kube-system",
        name,
        identity: options.identity.clone(),
        timings: options.lease,
        clock: options.clock.clone(),
    };
    let (controllers, scheduler) = (election("kontiki-controllers"), election("kontiki-scheduler"));
    tokio::join!(
        controllers.run(shutdown.clone(), || control(api.clone(), options.clone())),
        scheduler.run(shutdown.clone(), || scheduler::run(api.clone(), options.clone())),
    );
}

/// All controllers at work, without election, until dropped.
pub async fn control(api: DynApi, options: Options) {
    let settings = Settings {
        root_ca_pem: options.root_ca_pem,
        pod_cidr: options.pod_cidr,
        node_grace: options.node_grace,
    };
    let clock = options.clock;
    let hub = Arc::new(Hub::new(Arc::new(settings)));
    let (recorder, writer) = Recorder::new(api.clone(), clock.clone(), options.identity);
    let executor = Executor::new(api.clone(), recorder);
    let mut tasks = JoinSet::new();
    tasks.spawn(writer);
    for controller in all() {
        tasks.spawn(controller.start(&hub, api.clone(), executor.clone(), clock.clone()));
    }
    visit_kinds(&mut Informers { api: &api, hub: &hub, clock: &clock, tasks: &mut tasks });
    tasks.spawn(cluster::garbage::run(api.clone(), executor));
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller failed");
            return;
        }
    }
}

/// Starts the informer of each kind.
struct Informers<'a> {
    api: &'a DynApi,
    hub: &'a Arc<Hub>,
    clock: &'a Clock,
    tasks: &'a mut JoinSet<()>,
}

impl Visitor for Informers<'_> {
    fn visit<K: Kind>(&mut self) {
        use runtime::informer::{Collection, TypedSink, follow};
        let collection = Collection {
            target: K::target(),
            field_selector: K::field_selector().into(),
            shape: kontiki_proto::api::Shape::Object,
        };
        let sink = TypedSink::<K>::new(self.hub.clone(), self.clock.clone());
        self.tasks.spawn(follow(self.api.clone(), collection, sink));
    }
}
