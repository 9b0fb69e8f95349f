//! What clients learn of the kinds before they write.

use crate::support::Harness;

/// kubectl asks so for a file of `kind: List`, and reads no other form.
#[tokio::test]
async fn version_2_is_served_as_protobuf_to_those_who_ask_and_as_json_to_others() {
    let harness = Harness::start().await;
    let api = harness.admin();
    let kubectl = api.clone().with("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf");
    let protobuf = kubectl.get("/openapi/v2").await;
    assert_eq!(protobuf.code, 200);
    assert_eq!(
        protobuf.headers["content-type"],
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    );
    assert!(protobuf.body.starts_with(b"\x0a\x032.0"), "field 1 of the document is its version");

    let json = api.get("/openapi/v2").await.expect(200);
    assert_eq!(json["swagger"], "2.0");
    assert_eq!(json["definitions"]["io.k8s.api.core.v1.Pod"]["type"], "object");

    let tag = protobuf.headers["etag"].to_str().expect("a tag");
    let again = kubectl.clone().with("if-none-match", tag).get("/openapi/v2").await;
    assert_eq!((again.code, again.body.len()), (304, 0));
}
