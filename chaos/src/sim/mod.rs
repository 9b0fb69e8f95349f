//! Clusters in one process, on one thread, in virtual time: the real store and consensus over a simulated network and disk.
