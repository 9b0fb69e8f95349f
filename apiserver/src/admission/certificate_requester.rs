//! A certificate request says who makes it: the server writes that down, whatever the request claims.

use serde_json::json;

use super::{Admission, Call, Operation, Refusal};

pub(super) fn admit(_: &Admission, call: &mut Call<'_>) -> Result<(), Refusal> {
    if !call.is("certificates.k8s.io", "certificatesigningrequests", &[Operation::Create]) {
        return Ok(());
    }
    let user = call.user;
    if let Some(spec) = call.object.get_mut("spec").and_then(|spec| spec.as_object_mut()) {
        spec.insert("username".into(), json!(user.name));
        for (field, value) in
            [("uid", json!(user.uid)), ("groups", json!(user.groups)), ("extra", json!(user.extra))]
        {
            let is_empty = value.as_str().is_some_and(str::is_empty)
                || value.as_array().is_some_and(Vec::is_empty)
                || value.as_object().is_some_and(serde_json::Map::is_empty);
            if is_empty {
                spec.remove(field);
            } else {
                spec.insert(field.into(), value);
            }
        }
    }
    Ok(())
}
