//! Events, under both of their groups.

use super::{Entry, PLAIN, Strategy};

pub(super) static KINDS: &[Entry] = &[
    ("", "events", Strategy { create_on_update: true, ..PLAIN }),
    ("events.k8s.io", "events", Strategy { create_on_update: true, ..PLAIN }),
];
