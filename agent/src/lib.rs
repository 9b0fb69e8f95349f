//! kontiki-agent
pub mod net;
