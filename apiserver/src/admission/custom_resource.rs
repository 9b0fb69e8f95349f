//! Definitions are accepted, and their objects held to the schema they declare.

use jiff::Timestamp;
use kontiki_proto::Status;
use kontiki_proto::status::FieldError;
use serde_json::json;

use super::{Admission, Call, Operation, Refusal, items};
use crate::custom::{FINALIZER, GROUP, PLURAL, definition, structural};

pub(super) fn admit(admission: &Admission, call: &mut Call<'_>) -> Result<(), Refusal> {
    let writes = matches!(call.operation, Operation::Create | Operation::Update);
    if call.is(GROUP, PLURAL, &[Operation::Create, Operation::Update]) {
        accept(admission, call)
    } else if call.row.custom && writes {
        hold(admission, call)
    } else {
        Ok(())
    }
}

fn accept(admission: &Admission, call: &mut Call<'_>) -> Result<(), Refusal> {
    if let Some((field, what)) = definition::unsupported(call.object) {
        return Err(Status::not_implemented(&format!("{what} ({field})")).into());
    }
    for (at, version) in items(&call.object["spec"]["versions"]).enumerate() {
        let path = format!("spec.versions[{at}].schema.openAPIV3Schema");
        if let Some((field, why)) = structural::bad_pattern(&version["schema"]["openAPIV3Schema"], &path) {
            let error = FieldError::invalid(field, "", &format!("must be a valid regular expression: {why}"));
            return Err(Status::invalid(call.row, call.name(), &[error]).into());
        }
    }
    if call.operation == Operation::Create {
        let finalizers =
            super::map_at(call.object, "metadata").and_then(|meta| super::list_at(meta, "finalizers"));
        if let Some(finalizers) = finalizers
            && !finalizers.iter().any(|finalizer| finalizer == FINALIZER)
        {
            finalizers.push(json!(FINALIZER));
        }
    }
    let others = admission.objects.list(GROUP, PLURAL, "");
    let status = definition::status(call.object, &others, Timestamp::now());
    call.object["status"] = status;
    Ok(())
}

fn hold(admission: &Admission, call: &mut Call<'_>) -> Result<(), Refusal> {
    let name = format!("{}.{}", call.row.plural, call.row.group);
    let Some(definition) = admission.objects.get(GROUP, PLURAL, "", &name) else {
        return Err(Refusal::Missing(Status::no_such_path(), Default::default()));
    };
    if definition["metadata"].get("deletionTimestamp").is_some() && call.operation == Operation::Create {
        let why = "create not allowed while custom resource definition is terminating";
        return Err(Status::failure(405, "MethodNotAllowed", why).into());
    }
    let version = items(&definition["spec"]["versions"]).find(|v| v["name"] == call.row.version.as_str());
    let Some(schema) = version.map(|version| &version["schema"]["openAPIV3Schema"]).filter(|s| s.is_object())
    else {
        return Ok(());
    };
    if definition["spec"]["preserveUnknownFields"] != true {
        structural::complete(schema, call.object, true);
    }
    let errors = structural::validate(schema, call.object);
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(call.row, call.name(), &errors).into()) }
}
