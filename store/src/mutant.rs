//! Defects that the simulation plants, to prove that its checkers would find them.
//!
//! A place that can be spoilt asks [`mutated!`]. Without the feature `simulation` that is the constant `false` and nothing
//! is left of it; with it, the question is one relaxed load, and the answer is `false` until [`plant`] is called.

#[cfg(feature = "simulation")]
mod planted {
    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

    /// One defect each; the name says what goes wrong.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    #[repr(u8)]
    pub enum Mutant {
        /// The log calls written what it has not synced.
        FsyncSkipped = 1,
        /// A transaction happens although a guard fails, now and then.
        GuardIgnored,
        /// A watcher is not told of a change, now and then.
        WatchEventDropped,
        /// A barrier returns without asking the leader.
        ReadWithoutReadIndex,
        /// A vote is given before it is on disk, and never gets there.
        VoteNotPersisted,
        /// Applying looks at this server's own clock.
        ApplyReadsClock,
        /// Nobody ends leases that are due.
        LeaseNeverExpires,
        /// A bookmark is sent while changes below it still wait.
        BookmarkOvertakes,
        /// The log's tail is cut off in memory and stays on disk.
        TruncationForgotten,
        /// A checkpoint leaves out a key that has changed.
        CheckpointForgets,
    }

    impl Mutant {
        pub const ALL: [Mutant; 10] = [
            Mutant::FsyncSkipped,
            Mutant::GuardIgnored,
            Mutant::WatchEventDropped,
            Mutant::ReadWithoutReadIndex,
            Mutant::VoteNotPersisted,
            Mutant::ApplyReadsClock,
            Mutant::LeaseNeverExpires,
            Mutant::BookmarkOvertakes,
            Mutant::TruncationForgotten,
            Mutant::CheckpointForgets,
        ];

        /// The defect of this name, as the variant is spelt.
        pub fn named(name: &str) -> Option<Mutant> {
            Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name)
        }
    }

    static PLANTED: AtomicU8 = AtomicU8::new(0);
    static CLOCK: AtomicU64 = AtomicU64::new(0);

    /// Says what the clock of the server that runs next shows, in milliseconds; for [`Mutant::ApplyReadsClock`].
    pub fn set_clock(millis: u64) {
        CLOCK.store(millis, Ordering::Relaxed);
    }

    pub(crate) fn clock() -> u64 {
        CLOCK.load(Ordering::Relaxed)
    }

    /// Plants the defect in this process, for good.
    pub fn plant(mutant: Mutant) {
        PLANTED.store(mutant as u8, Ordering::Relaxed);
    }

    pub(crate) fn is_planted(mutant: Mutant) -> bool {
        PLANTED.load(Ordering::Relaxed) == mutant as u8
    }
}

#[cfg(feature = "simulation")]
pub use planted::{Mutant, plant, set_clock};
#[cfg(feature = "simulation")]
pub(crate) use planted::{clock, is_planted};

#[cfg(not(feature = "simulation"))]
pub(crate) fn clock() -> u64 {
    0
}

/// Whether the defect is planted in this process; `false` in the product, at compile time.
macro_rules! mutated {
    ($mutant:ident) => {{
        #[cfg(feature = "simulation")]
        let planted = $crate::mutant::is_planted($crate::mutant::Mutant::$mutant);
        #[cfg(not(feature = "simulation"))]
        let planted = false;
        planted
    }};
}
pub(crate) use mutated;
