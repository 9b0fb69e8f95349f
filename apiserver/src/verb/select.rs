//! Which objects a list or watch is about: scope, label and field selector, judged on attributes.

use bytes::Bytes;
use kontiki_proto::Target;
use kontiki_proto::resource::Resource;
use kontiki_proto::selector::{FieldSelector, Selector};
use kontiki_proto::status::Status;
use kontiki_store::Entry;

use crate::storage;

/// A parsed selection. Judging an entry reads its key and attributes only.
#[derive(Clone, Debug)]
pub struct Selection {
    prefix: Bytes,
    namespace: Option<String>,
    name: Option<String>,
    labels: Selector,
    fields: FieldSelector,
    /// Whether every entry under the prefix is selected.
    everything: bool,
}

impl Selection {
    /// 400 for a selector that cannot be read, or a field the kind cannot be selected by.
    pub fn new(row: &Resource, target: &Target, labels: &str, fields: &str) -> Result<Selection, Status> {
        let unreadable = |error: &dyn std::fmt::Display| Status::bad_request(error.to_string());
        let (label_text, field_text) = (labels, fields);
        let labels = Selector::parse(labels).map_err(|error| unreadable(&error))?;
        let fields = FieldSelector::parse(fields).map_err(|error| unreadable(&error))?;
        for term in &fields.terms {
            let known = term.path == "metadata.name"
                || (term.path == "metadata.namespace" && (row.namespaced() || !row.custom))
                || row.selectable_fields.iter().any(|field| *field == term.path);
            if !known {
                return Err(Status::bad_request(format!(
                    "Unable to find \"{}/{}, Resource={}\" that match label selector \"{label_text}\", field selector \"{field_text}\": field label not supported: {}",
                    row.group, row.version, row.plural, term.path,
                )));
            }
        }
        let exactly = |path: &str| {
            fields.terms.iter().find(|term| term.equal && term.path == path).map(|term| term.value.clone())
        };
        let namespace = if target.namespace.is_empty() {
            exactly("metadata.namespace").filter(|_| row.namespaced())
        } else {
            Some(target.namespace.to_string())
        };
        let name =
            if target.name.is_empty() { exactly("metadata.name") } else { Some(target.name.to_string()) };
        let scope = namespace.clone().unwrap_or_default();
        let prefix = match &name {
            // A key is a prefix of itself; names behind it are told apart by `selects`.
            Some(name) if !row.namespaced() || !scope.is_empty() => storage::key(row, &scope, name),
            _ => storage::prefix(row, &scope),
        };
        let everything = labels.requirements.is_empty() && fields.terms.is_empty() && name.is_none();
        Ok(Selection { prefix, namespace, name, labels, fields, everything })
    }

    /// Every selected entry lies under it.
    pub fn prefix(&self) -> &Bytes {
        &self.prefix
    }

    pub fn everything(&self) -> bool {
        self.everything
    }

    pub fn selects(&self, entry: &Entry) -> bool {
        if self.everything {
            return true;
        }
        let (namespace, name) = storage::names(&entry.key);
        if self.name.as_ref().is_some_and(|wanted| wanted != name)
            || self.namespace.as_ref().is_some_and(|wanted| !namespace.is_empty() && wanted != namespace)
        {
            return false;
        }
        let field = |path: &str| match path {
            "metadata.name" => Some(name),
            "metadata.namespace" => Some(namespace),
            _ => storage::attribute(entry, "f:", path),
        };
        self.labels.matches(|key| storage::attribute(entry, "l:", key)) && self.fields.matches(field)
    }
}
