//! Services as nftables maps.
//!
//! ```text
//!  Services, EndpointSlices, Nodes ── compile ──► Ruleset ── script(previous) ──► nft -f -, one transaction
//! ```
//!
//! The chains are the same for every cluster: one for each number of endpoints, which draws one of them from the global map
//! `eps`. What Services say is elements of maps alone, so that a change is a few elements, and a new agent takes over the
//! table of the last one by exchanging elements (`schema_…` names the version of the chains).

mod compile;
mod conntrack;
mod ruleset;
mod sync;
#[cfg(test)]
mod tests;

pub(super) use compile::{View, compile};
pub(super) use sync::follow;
