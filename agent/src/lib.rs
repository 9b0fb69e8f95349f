//! kontiki-agent
pub mod image;
pub mod net;
pub mod pod;
pub mod runtime;
