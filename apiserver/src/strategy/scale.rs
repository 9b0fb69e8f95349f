//! The `scale` subresource: one document in front of the kinds that have replicas.

use kontiki_proto::resource::Resource;
use kontiki_proto::status::Status;
use serde_json::Value;

/// The `autoscaling/v1` `Scale` of an object. 404 where the kind has none.
pub fn read(row: &Resource, object: &Value) -> Result<Value, Status> {
    let _ = (row, object);
    Err(Status::not_implemented("scale"))
}

/// Writes the wanted replicas of a `Scale` into the object; 422 where they are not a count.
pub fn write(row: &Resource, object: &mut Value, scale: &Value) -> Result<(), Status> {
    let _ = (row, object, scale);
    Err(Status::not_implemented("scale"))
}
