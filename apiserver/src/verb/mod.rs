//! verb
