//! A volume claim that names no storage class gets the default one.

use super::{Admission, Call, Operation, Refusal, map_at};

const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";

pub(super) fn admit(admission: &Admission, call: &mut Call<'_>) -> Result<(), Refusal> {
    let named = |call: &Call<'_>| {
        call.object["spec"].get("storageClassName").is_some_and(|name| name.is_string())
            || call.object["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].is_string()
    };
    if !call.is("", "persistentvolumeclaims", &[Operation::Create]) || named(call) {
        return Ok(());
    }
    // The newest of several; the name decides between two of one second.
    let classes = admission.objects.list("storage.k8s.io", "storageclasses", "").into_iter();
    let defaults = classes.filter(|class| class["metadata"]["annotations"][DEFAULT] == "true");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_string();
    let newest = defaults.max_by_key(|class| {
        let metadata = &class["metadata"];
        (text(&metadata["creationTimestamp"]), std::cmp::Reverse(text(&metadata["name"])))
    });
    if let (Some(class), Some(spec)) = (newest, map_at(call.object, "spec")) {
        spec.insert("storageClassName".into(), class["metadata"]["name"].clone());
    }
    Ok(())
}
