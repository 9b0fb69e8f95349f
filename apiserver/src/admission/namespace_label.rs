//! Every namespace carries its name as a label, so that selectors can choose it.

use super::{Admission, Call, Operation, Refusal, map_at};

pub(super) fn admit(_: &Admission, call: &mut Call<'_>) -> Result<(), Refusal> {
    if !call.is("", "namespaces", &[Operation::Create, Operation::Update]) {
        return Ok(());
    }
    let name = call.name().to_string();
    if let Some(metadata) = call.object.get_mut("metadata")
        && !name.is_empty()
        && let Some(labels) = map_at(metadata, "labels")
    {
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
    }
    Ok(())
}
