//! Standing connections to every other member, so that an election waits for no handshake.
//!
//! ```text
//!   this server ══ talk ══▶ member     votes, hand-over, questions for the leader
//!               ══ log ═══▶            entries and heartbeats, once this server leads
//!               ── a snapshot has a connection of its own while it lasts
//! ```
//!
//! A lane's connection is made when it is first needed, or ahead of that by [`keep`], and made again when it has ended or
//! somebody got no answer on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;

use super::core::Core;
use super::transport::{Conduit, PeerError, Transport};

const KEEP_EVERY: Duration = Duration::from_millis(500);

pub(crate) struct Mesh {
    pub transport: Arc<dyn Transport>,
    links: Mutex<BTreeMap<String, Links>>,
}

/// The lanes to one server.
#[derive(Clone)]
pub(crate) struct Links {
    pub talk: Arc<Lane>,
    pub log: Arc<Lane>,
}

/// Connections to one server for one purpose, one at a time.
pub(crate) struct Lane {
    transport: Arc<dyn Transport>,
    address: String,
    current: Mutex<Option<Arc<dyn Conduit>>>,
    /// Held by whoever connects; the others wait for the outcome.
    connecting: tokio::sync::Mutex<()>,
}

impl Mesh {
    pub fn new(transport: Arc<dyn Transport>) -> Mesh {
        Mesh { transport, links: Mutex::default() }
    }

    pub fn to(&self, address: &str) -> Links {
        let mut links = self.links.lock();
        if let Some(found) = links.get(address) {
            return found.clone();
        }
        let lane = || Arc::new(Lane::new(self.transport.clone(), address.to_string()));
        let new = Links { talk: lane(), log: lane() };
        links.insert(address.to_string(), new.clone());
        new
    }
}

impl Lane {
    pub fn new(transport: Arc<dyn Transport>, address: String) -> Lane {
        Lane { transport, address, current: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }

    fn live(&self) -> Option<Arc<dyn Conduit>> {
        let current = self.current.lock().clone()?;
        current.closed().now_or_never().is_none().then_some(current)
    }

    /// A connection that is not known to have ended. An error means that nothing was sent.
    pub async fn conduit(&self) -> Result<Arc<dyn Conduit>, PeerError> {
        if let Some(live) = self.live() {
            return Ok(live);
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(live) = self.live() {
            return Ok(live);
        }
        let new = self.transport.connect(&self.address).await?;
        *self.current.lock() = Some(new.clone());
        Ok(new)
    }

    /// The next call makes a new connection, unless somebody else has made one since.
    pub fn forget(&self, conduit: &Arc<dyn Conduit>) {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, conduit)) {
            *current = None;
        }
    }
}

/// Keeps the lanes to all other members open, and forgets those to servers that are none any more.
pub(crate) async fn keep(core: Arc<Core>) {
    loop {
        let mut members = core.members();
        members.remove(&core.speaker.me);
        let addresses: Vec<String> = members.into_values().map(|member| member.peer).collect();
        core.mesh.links.lock().retain(|address, _| addresses.contains(address));
        let connected = addresses.iter().map(|address| {
            let Links { talk, log } = core.mesh.to(address);
            // A server that is down is tried again; whoever needs it will say so.
            async move { drop(futures::future::join(talk.conduit(), log.conduit()).await) }
        });
        futures::future::join_all(connected).await;
        tokio::time::sleep(KEEP_EVERY).await;
    }
}
