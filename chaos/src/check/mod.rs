//! Judges, one file for each guarantee. Each says what it looked at, or what broke the guarantee.

mod durable;
mod linearizable;
mod monotonic;
mod watch;

pub use durable::durable;
pub use linearizable::linearizable;
pub use monotonic::monotonic;
pub use watch::{Seen, watch};

/// What a judge found: a line for people, or the evidence against.
pub type Verdict = Result<String, String>;
