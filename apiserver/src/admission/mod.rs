//! Admission: what is changed in a document or refused after authorization and before validation.
//!
//! The plug-ins are a plain list of functions, one file each, run in order on every write of both fronts.

use std::sync::Arc;

use kontiki_proto::{Resource, Status, Target};
use serde_json::Value;

use crate::auth::{Objects, User};

/// What is about to happen to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    /// exec, attach, port-forward and proxy.
    Connect,
}

/// The plug-ins with what they read.
pub struct Admission {
    objects: Arc<dyn Objects>,
}

impl Admission {
    pub fn new(objects: Arc<dyn Objects>) -> Admission {
        Admission { objects }
    }

    /// Runs after defaults and before validation, on the new document (`Null` for a delete). `old` is the stored
    /// object for updates and deletes. `target.name` may be empty for a create with `generateName`.
    pub async fn admit(
        &self,
        _operation: Operation,
        _row: &Resource,
        _target: &Target,
        _user: &User,
        _object: &mut Value,
        _old: Option<&Value>,
    ) -> Result<(), Status> {
        let _ = &self.objects;
        Ok(())
    }
}
