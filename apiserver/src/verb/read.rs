//! get and list.

use std::time::Duration;

use kontiki_proto::api::{GetOptions, List, ListOptions, Shape, VersionMatch};
use kontiki_proto::resource::{Resource, Scope, Verbs};
use kontiki_proto::status::{FieldError, Status};
use kontiki_store::{RangeRequest, ReadError, Revision, Store};

use super::Call;
use super::select::Selection;
use super::shape::{self, Form, ListMeta};
use super::token::Token;
use crate::request::Document;
use crate::server::Context;
use crate::storage;

/// How long a read waits for a revision this server has not applied yet.
const WAIT: Duration = Duration::from_secs(3);
/// How many entries are looked at in one go when a page is filled through a selector.
const STRIDE: usize = 500;

pub(super) async fn get(context: &Context, call: &Call, options: &GetOptions) -> Result<Document, Status> {
    catch_up(&context.store, &options.resource_version).await?;
    let entry = super::entry(context, call)?;
    let document = storage::document_for(&call.row, &entry)?;
    Ok(Document::ok(shape::object(&call.row, document, call.form(options.shape))?))
}

/// Waits until this server may answer: empty means it has seen all that was acknowledged before, `0` whatever there
/// is, a number at least that revision.
pub(super) async fn catch_up(store: &Store, resource_version: &str) -> Result<(), Status> {
    match resource_version {
        "" => store.barrier().await.map(drop).map_err(storage::store_error),
        "0" => Ok(()),
        text => not_older(store, parse_revision(text)?).await,
    }
}

pub(super) fn parse_revision(text: &str) -> Result<Revision, Status> {
    text.parse().map_err(|_| {
        let error = FieldError::invalid("resourceVersion", text, "strconv.ParseUint: invalid syntax");
        let mut status = Status::bad_request(error.to_string());
        status.message = format!("invalid resource version {text:?}: {error}");
        status
    })
}

pub(super) async fn not_older(store: &Store, revision: Revision) -> Result<(), Status> {
    if store.revision() >= revision {
        return Ok(());
    }
    match store.wait_for(revision, WAIT).await {
        Ok(()) => Ok(()),
        Err(_) if store.revision() < revision => Err(storage::too_large_version(revision, store.revision())),
        Err(error) => Err(storage::store_error(error)),
    }
}

/// The rules for the options of lists and watches, in upstream's words.
fn check(options: &ListOptions) -> Result<(), Status> {
    let mut errors = Vec::new();
    let version = options.resource_version.as_str();
    if options.version_match != VersionMatch::Unset {
        let field = "resourceVersionMatch";
        if !options.continue_token.is_empty() {
            errors.push(FieldError::forbidden(
                field,
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        } else if version.is_empty() {
            errors.push(FieldError::forbidden(
                field,
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        } else if options.version_match == VersionMatch::Exact && version == "0" {
            errors.push(FieldError::forbidden(
                field,
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
    }
    refuse_options(&errors)?;
    if !options.continue_token.is_empty() && !matches!(version, "" | "0") {
        return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
    }
    Ok(())
}

pub(super) fn refuse_options(errors: &[FieldError]) -> Result<(), Status> {
    if errors.is_empty() {
        return Ok(());
    }
    let about = Resource::new("meta.k8s.io", "v1", "ListOptions", "listoptions", Scope::Cluster, Verbs::NONE);
    Err(Status::invalid(&about, "", errors))
}

/// From which key and at which revision a list reads.
async fn start(
    store: &Store,
    selection: &Selection,
    options: &ListOptions,
) -> Result<(Option<bytes::Bytes>, Option<Revision>), Status> {
    if !options.continue_token.is_empty() {
        let token = Token::decode(&options.continue_token)?;
        match token.revision {
            // Another server may have given the token out.
            Some(revision) => not_older(store, revision).await?,
            None => catch_up(store, "").await?,
        }
        return Ok((Some(token.after(selection.prefix())), token.revision));
    }
    let version = options.resource_version.as_str();
    catch_up(store, version).await?;
    let exact = match options.version_match {
        VersionMatch::Exact => true,
        VersionMatch::NotOlderThan => false,
        VersionMatch::Unset => options.limit > 0 && !matches!(version, "" | "0"),
    };
    Ok((None, if exact { Some(parse_revision(version)?) } else { None }))
}

fn gone(error: ReadError, selection: &Selection, after: Option<&bytes::Bytes>) -> Status {
    match (error, after) {
        (ReadError::Compacted { .. }, Some(after)) => {
            let mut status = Status::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
            );
            let token = Token::new(None, selection.prefix(), after);
            status.metadata.insert("continue".into(), token.encode().into());
            status
        }
        (ReadError::Compacted { .. }, None) => {
            Status::expired("The resourceVersion for the provided list is too old.")
        }
        (error @ ReadError::Future { .. }, _) => storage::read_error(error),
    }
}

/// One page, or all of it; every page of a list shows the revision of the first.
pub(super) async fn list(context: &Context, call: &Call, options: &ListOptions) -> Result<List, Status> {
    check(options)?;
    let row = &*call.row;
    let store = &context.store;
    let selection = Selection::new(row, &call.target, &options.label_selector, &options.field_selector)?;
    let (mut after, at) = start(store, &selection, options).await?;
    let limit = usize::try_from(options.limit).unwrap_or(usize::MAX);
    let stride = match limit {
        0 => 0,
        limit if selection.everything() => limit,
        limit => limit.max(STRIDE),
    };

    let mut revision = at;
    let mut items = Vec::new();
    let mut more = None;
    loop {
        let request = RangeRequest {
            prefix: selection.prefix().clone(),
            after: after.clone(),
            limit: stride,
            revision,
        };
        let range = store.range(&request).map_err(|error| gone(error, &selection, after.as_ref()))?;
        revision = Some(range.revision);
        if selection.everything() {
            items.reserve(range.entries.len());
        }
        let last = range.entries.len().saturating_sub(1);
        for (index, entry) in range.entries.iter().enumerate() {
            after = Some(entry.key.clone());
            if !selection.selects(entry) {
                continue;
            }
            items.push(storage::document_for(row, entry)?);
            if limit > 0 && items.len() == limit {
                let rest = range.count.saturating_sub(index as u64 + 1);
                more = (index < last || range.more).then_some(rest);
                break;
            }
        }
        if !range.more || (limit > 0 && items.len() >= limit) {
            break;
        }
    }

    let revision = revision.unwrap_or_default();
    // An inconsistent continuation goes on as one: it has no revision of its own to pin.
    let token = match (&more, &after) {
        (Some(_), Some(last)) => Token::new(Some(revision), selection.prefix(), last).encode(),
        _ => String::new(),
    };
    let meta =
        ListMeta { revision, continue_token: token, remaining: more.filter(|_| selection.everything()) };
    answer(row, items, meta, call.form(options.shape))
}

pub(super) fn answer(
    row: &Resource,
    items: Vec<bytes::Bytes>,
    meta: ListMeta,
    form: Form,
) -> Result<List, Status> {
    let document = match form.shape {
        Shape::Object => None,
        _ => Some(shape::list(row, &items, &meta, form)?),
    };
    Ok(List {
        resource_version: meta.revision.to_string(),
        continue_token: meta.continue_token,
        remaining: meta.remaining,
        items: if document.is_some() { Vec::new() } else { items },
        document,
    })
}
