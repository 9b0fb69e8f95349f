//! May this user do that.

use std::sync::Arc;

use kontiki_proto::Status;
use kontiki_proto::status::Details;

use super::rbac::Index;
use super::{Objects, User, node};

/// One question to the authorizer. Empty strings stand for "none".
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    pub user: &'a User,
    /// An API verb, or the lower-case HTTP method for a path.
    pub verb: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    /// The plural name.
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// Set for URLs that name no resource, such as `/healthz`; the fields above but `user` and `verb` do not count then.
    pub path: Option<&'a str>,
}

impl<'a> Access<'a> {
    /// Access to a URL that is no resource.
    pub fn path(user: &'a User, verb: &'a str, path: &'a str) -> Access<'a> {
        Access {
            user,
            verb,
            group: "",
            version: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            path: Some(path),
        }
    }

    /// The 403 in upstream's words; `reason` is appended where it is not empty.
    pub fn forbidden(&self, reason: &str) -> Status {
        let user = &self.user.name;
        let verb = self.verb;
        let mut why = match self.path {
            Some(path) => format!("User {user:?} cannot {verb} path {path:?}"),
            None => {
                let resource = if self.subresource.is_empty() {
                    self.resource.to_string()
                } else {
                    format!("{}/{}", self.resource, self.subresource)
                };
                let scope = if self.namespace.is_empty() {
                    "at the cluster scope".to_string()
                } else {
                    format!("in the namespace {:?}", self.namespace)
                };
                let group = self.group;
                format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}")
            }
        };
        if !reason.is_empty() {
            why.push_str(": ");
            why.push_str(reason);
        }
        let qualified = match (self.path, self.group) {
            (Some(_), _) => String::new(),
            (None, "") => self.resource.to_string(),
            (None, group) => format!("{}.{group}", self.resource),
        };
        let message = match (qualified.as_str(), self.name) {
            ("", _) => format!("forbidden: {why}"),
            (what, "") => format!("{what} is forbidden: {why}"),
            (what, name) => format!("{what} {name:?} is forbidden: {why}"),
        };
        let mut status = Status::failure(403, "Forbidden", message);
        status.details = Some(Box::new(match self.path {
            Some(_) => Details::default(),
            None => Details {
                name: self.name.into(),
                group: self.group.into(),
                kind: self.resource.into(),
                ..Details::default()
            },
        }));
        status
    }
}

/// The answer to an [`Access`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    /// `reason` may be empty: nothing allowed it.
    Deny {
        reason: String,
    },
}

impl Decision {
    pub fn allowed(&self) -> bool {
        matches!(self, Decision::Allow)
    }
}

/// system:masters, the node authorizer and RBAC, in this order; the first that allows decides.
pub struct Authorizer {
    index: Arc<Index>,
    objects: Arc<dyn Objects>,
}

impl Authorizer {
    pub fn new(objects: Arc<dyn Objects>) -> Authorizer {
        Authorizer { index: Arc::default(), objects }
    }

    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Answers from memory, without waiting.
    pub fn authorize(&self, access: &Access<'_>) -> Decision {
        if access.user.is_in(super::MASTERS) {
            return Decision::Allow;
        }
        let node = match access.user.node() {
            None => Err(String::new()),
            Some(node) => node::authorize(&*self.objects, node, access),
        };
        match (node, self.index.authorize(access)) {
            (Ok(()), _) => Decision::Allow,
            (Err(reason), Decision::Deny { .. }) => Decision::Deny { reason },
            (Err(_), allow) => allow,
        }
    }

    /// `Ok`, or the 403.
    pub fn check(&self, access: &Access<'_>) -> Result<(), Status> {
        match self.authorize(access) {
            Decision::Allow => Ok(()),
            Decision::Deny { reason } => Err(access.forbidden(&reason)),
        }
    }
}
