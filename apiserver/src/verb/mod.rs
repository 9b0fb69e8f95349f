//! What the API does with an object, whatever its kind: code per verb, data per kind.
//!
//! | module | verbs |
//! |---|---|
//! | [`read`] | get, list |
//! | [`watch`] | watch |
//! | [`create`] | create |
//! | [`edit`] | update, patch, and every other change of one object: read, change, guarded write, again on conflict |
//! | [`delete`] | delete, deletecollection |
//! | [`pods`], [`namespaces`], [`services`], [`subresource`] | what single kinds and subresources do differently |
//! | [`select`], [`token`], [`shape`] | selections, continue tokens, tables |

mod create;
mod decode;
mod delete;
mod edit;
mod leases;
mod namespaces;
mod pods;
mod read;
mod select;
mod services;
pub mod shape;
mod subresource;
mod token;
mod watch;

use std::sync::Arc;

use kontiki_proto::Target;
use kontiki_proto::api::Shape;
use kontiki_proto::resource::{Resource, Verbs};
use kontiki_proto::status::Status;
use kontiki_store::Entry;

pub(crate) use leases::EventLeases;
pub(crate) use services::Allocator;

use crate::auth::User;
use crate::request::{Action, Answer};
use crate::server::Context;
use crate::storage;
use crate::table::Include;

/// A request whose resource has been found; not yet its object.
#[derive(Clone, Debug)]
pub struct Call {
    pub row: Arc<Resource>,
    pub user: Arc<User>,
    pub target: Target,
    pub include: Include,
}

impl Call {
    fn form(&self, shape: Shape) -> shape::Form {
        shape::Form { shape, include: self.include }
    }

    fn not_found(&self) -> Status {
        Status::not_found(&self.row, &self.target.name)
    }

    /// The same call on one of the collection's objects.
    fn on(&self, namespace: &str, name: &str) -> Call {
        let mut call = self.clone();
        call.target.namespace = namespace.into();
        call.target.name = name.into();
        call
    }
}

/// The stored object the call is about, as this server knows it.
fn entry(context: &Context, call: &Call) -> Result<Arc<Entry>, Status> {
    context
        .store
        .get(&storage::key(&call.row, &call.target.namespace, &call.target.name))
        .ok_or_else(|| call.not_found())
}

/// The verb's bit in the resource table, and whether it works on one object.
fn facts(action: &Action) -> (Verbs, bool) {
    match action {
        Action::Get(_) => (Verbs::GET, true),
        Action::List(_) => (Verbs::LIST, false),
        Action::Watch(_) => (Verbs::WATCH, false),
        Action::Create(..) => (Verbs::CREATE, false),
        Action::Update(..) => (Verbs::UPDATE, true),
        Action::Patch(..) => (Verbs::PATCH, true),
        Action::Delete(_) => (Verbs::DELETE, true),
        Action::DeleteCollection(..) => (Verbs::DELETECOLLECTION, false),
    }
}

/// What upstream names the HTTP method in a 405.
fn refused(call: &Call, action: &Action) -> Status {
    Status::method_not_supported(&call.row, action.verb())
}

/// Carries out an authorized call.
pub async fn run(context: &Context, call: &Call, action: Action) -> Result<Answer, Status> {
    let (verb, on_object) = facts(&action);
    if !call.target.subresource.is_empty() {
        let Some(subresource) = call.row.subresource(&call.target.subresource) else {
            return Err(Status::no_such_path());
        };
        if !subresource.verbs.contains(verb) {
            return Err(refused(call, &action));
        }
        return subresource::run(context, call, action).await.map(Answer::Document);
    }
    let named = !call.target.name.is_empty();
    let legacy_watch = matches!(action, Action::Watch(_));
    if !call.row.verbs.contains(verb) || (on_object != named && !legacy_watch) {
        return Err(refused(call, &action));
    }
    if call.row.namespaced() && call.target.namespace.is_empty() {
        let across = matches!(action, Action::List(_) | Action::Watch(_));
        if !across {
            return Err(Status::bad_request(format!(
                "an empty namespace may not be set {}",
                if named { "when a resource name is provided" } else { "during creation" }
            )));
        }
    }
    if !call.row.stored() {
        return subresource::answered(context, call, action).await;
    }
    match action {
        Action::Get(options) => read::get(context, call, &options).await.map(Answer::Document),
        Action::List(options) => read::list(context, call, &options).await.map(Answer::List),
        Action::Watch(options) => watch::watch(context, call, &options).await.map(Answer::Watch),
        Action::Create(body, options) => {
            create::create(context, call, &body, &options).await.map(Answer::Document)
        }
        Action::Update(body, options) => {
            edit::update(context, call, &body, &options).await.map(Answer::Document)
        }
        Action::Patch(patch_type, body, options) => {
            edit::patch(context, call, patch_type, &body, &options).await.map(Answer::Document)
        }
        Action::Delete(options) => delete::delete(context, call, &options).await.map(Answer::Document),
        Action::DeleteCollection(selection, options) => {
            delete::delete_collection(context, call, &selection, &options).await.map(Answer::Document)
        }
    }
}
