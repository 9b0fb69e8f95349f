//! What both fronts turn a call into.
