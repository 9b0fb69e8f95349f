//! What every front turns a call into, and what it gets back.

use std::sync::Arc;

use bytes::Bytes;
use kontiki_proto::Target;
use kontiki_proto::api::{
    DeleteOptions, GetOptions, List, ListOptions, PatchType, WatchOptions, WatchStream, WriteOptions,
};

use crate::auth::User;
use crate::table::Include;

/// A call on a resource of the table, whoever brought it.
#[derive(Clone, Debug)]
pub struct Request {
    pub user: Arc<User>,
    pub target: Target,
    pub action: Action,
    /// How much of an object goes with its row of a table.
    pub include: Include,
}

/// How a body is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Json,
    Yaml,
    /// Kubernetes' own protobuf, which Go clients send.
    Protobuf,
}

/// An undecoded document.
#[derive(Clone, Debug, Default)]
pub struct Body {
    pub format: Format,
    pub bytes: Bytes,
}

impl Body {
    pub fn json(bytes: impl Into<Bytes>) -> Body {
        Body { format: Format::Json, bytes: bytes.into() }
    }
}

/// The verb with what belongs to it.
#[derive(Clone, Debug)]
pub enum Action {
    Get(GetOptions),
    List(ListOptions),
    Watch(WatchOptions),
    Create(Body, WriteOptions),
    Update(Body, WriteOptions),
    Patch(PatchType, Body, WriteOptions),
    Delete(DeleteOptions),
    DeleteCollection(ListOptions, DeleteOptions),
}

impl Action {
    /// The verb as RBAC rules name it.
    pub fn verb(&self) -> &'static str {
        match self {
            Action::Get(_) => "get",
            Action::List(_) => "list",
            Action::Watch(_) => "watch",
            Action::Create(..) => "create",
            Action::Update(..) => "update",
            Action::Patch(..) => "patch",
            Action::Delete(_) => "delete",
            Action::DeleteCollection(..) => "deletecollection",
        }
    }

    pub fn writes(&self) -> bool {
        !matches!(self, Action::Get(_) | Action::List(_) | Action::Watch(_))
    }
}

/// One JSON document with what goes around it.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// HTTP status code of a success: 200, or 201 for something created.
    pub code: u16,
    pub json: Bytes,
    /// Shown to people, one `Warning` header each.
    pub warnings: Vec<String>,
}

impl Document {
    pub fn ok(json: Bytes) -> Document {
        Document { code: 200, json, warnings: Vec::new() }
    }

    pub fn created(json: Bytes) -> Document {
        Document { code: 201, json, warnings: Vec::new() }
    }

    #[must_use]
    pub fn warned(mut self, warnings: Vec<String>) -> Document {
        self.warnings = warnings;
        self
    }
}

/// What a [`Request`] was answered with.
pub enum Answer {
    Document(Document),
    List(List),
    Watch(WatchStream),
}
