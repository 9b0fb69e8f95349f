//! Bad input gets the status code and the words upstream's server has for it, and changes nothing.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::support::Harness;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn each_mistake_has_its_answer() {
    let harness = Harness::start().await;
    let api = harness.admin();
    api.post(MAPS, &json!({"metadata": {"name": "a"}})).await.expect(201);
    let account = json!({"metadata": {"name": "default"}});
    api.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    let before = api.get(MAPS).await.expect(200)["metadata"]["resourceVersion"].clone();

    let pods = "/api/v1/namespaces/default/pods";
    for (method, path, body, code, words) in [
        (Method::POST, MAPS, "{", 400, ""),
        (Method::POST, MAPS, "[]", 400, ""),
        (Method::POST, MAPS, "{\"metadata\":{\"name\":1}}", 400, "name"),
        (Method::POST, MAPS, "{\"metadata\":{\"name\":\"b\"},\"data\":[]}", 400, "data"),
        (Method::POST, MAPS, "{\"metadata\":{}}", 422, "name or generateName is required"),
        (Method::POST, MAPS, "{\"metadata\":{\"name\":\"A_b\"}}", 422, "metadata.name"),
        (Method::POST, MAPS, "{\"metadata\":{\"name\":\"a\"}}", 409, "configmaps \"a\" already exists"),
        (
            Method::POST,
            MAPS,
            "{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"b\"}}",
            400,
            "cannot be handled as a ConfigMap",
        ),
        (
            Method::POST,
            MAPS,
            "{\"apiVersion\":\"apps/v1\",\"metadata\":{\"name\":\"b\"}}",
            400,
            "the API version in the data (apps/v1) does not match the expected API version (v1)",
        ),
        (
            Method::POST,
            MAPS,
            "{\"metadata\":{\"name\":\"b\",\"namespace\":\"other\"}}",
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            Method::POST,
            MAPS,
            "{\"metadata\":{\"name\":\"b\",\"resourceVersion\":\"5\"}}",
            400,
            "resourceVersion should not be set on objects to be created",
        ),
        (
            Method::POST,
            "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
            "{\"metadata\":{\"name\":\"b\"},\"nonsense\":1}",
            400,
            "unknown field \"nonsense\"",
        ),
        (
            Method::POST,
            "/api/v1/namespaces/default/configmaps?fieldValidation=x",
            "{}",
            400,
            "fieldValidation",
        ),
        (Method::POST, "/api/v1/namespaces/default/configmaps?dryRun=x", "{}", 400, "dryRun"),
        (
            Method::POST,
            "/api/v1/namespaces/absent/configmaps",
            "{\"metadata\":{\"name\":\"b\"}}",
            404,
            "namespaces \"absent\" not found",
        ),
        (Method::POST, "/api/v1/configmaps", "{\"metadata\":{\"name\":\"b\"}}", 400, "namespace"),
        (Method::POST, "/api/v1/namespaces/default/configmaps/a", "{}", 405, "create"),
        (Method::PUT, "/api/v1/namespaces/default/configmaps", "{}", 405, ""),
        (
            Method::PUT,
            "/api/v1/namespaces/default/configmaps/a",
            "{\"metadata\":{\"name\":\"b\"}}",
            400,
            "the name of the object (b) does not match the name on the URL (a)",
        ),
        (
            Method::PUT,
            "/api/v1/namespaces/default/configmaps/zz",
            "{\"metadata\":{\"name\":\"zz\"}}",
            404,
            "configmaps \"zz\" not found",
        ),
        (
            Method::PUT,
            "/api/v1/namespaces/default/configmaps/a",
            "{\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"1\"}}",
            409,
            "the object has been modified; please apply your changes to the latest version and try again",
        ),
        (
            Method::PUT,
            "/api/v1/namespaces/default/configmaps/a",
            "{\"metadata\":{\"name\":\"a\",\"uid\":\"other\"}}",
            409,
            "Precondition failed: UID in precondition: other",
        ),
        (
            Method::POST,
            pods,
            "{\"metadata\":{\"name\":\"p\"},\"spec\":{}}",
            422,
            "spec.containers: Required value",
        ),
        (Method::GET, "/api/v1/nonsense", "", 404, "the server could not find the requested resource"),
        (
            Method::GET,
            "/apis/nonsense/v1/things",
            "",
            404,
            "the server could not find the requested resource",
        ),
        (Method::GET, "/nonsense", "", 404, "the server could not find the requested resource"),
        (Method::GET, "/api/v1/namespaces/default/configmaps/a/status", "", 404, "could not find"),
        (Method::GET, "/api/v1/namespaces/default/pods?labelSelector=a%3D%3D%3Db", "", 400, ""),
        (
            Method::GET,
            "/api/v1/namespaces/default/pods?fieldSelector=spec.x%3Db",
            "",
            400,
            "field label not supported: spec.x",
        ),
        (Method::GET, "/api/v1/namespaces/default/pods?limit=x", "", 400, "limit"),
        (Method::GET, "/api/v1/namespaces/default/pods?continue=x", "", 400, "continue key is not valid"),
        (
            Method::GET,
            "/api/v1/namespaces/default/pods?resourceVersion=x",
            "",
            400,
            "invalid resource version",
        ),
        (
            Method::GET,
            "/api/v1/namespaces/default/pods?resourceVersionMatch=Exact",
            "",
            422,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (Method::DELETE, "/api/v1/namespaces/default/configmaps/zz", "", 404, "configmaps \"zz\" not found"),
        (
            Method::DELETE,
            "/api/v1/namespaces/default/configmaps/a",
            "{\"preconditions\":{\"uid\":\"other\"}}",
            409,
            "Precondition failed: UID in precondition: other",
        ),
        (
            Method::DELETE,
            "/api/v1/namespaces/default/configmaps/a",
            "{\"propagationPolicy\":\"Sideways\"}",
            422,
            "propagationPolicy: Unsupported value: \"Sideways\"",
        ),
        (Method::DELETE, "/api/v1/namespaces", "", 405, ""),
    ] {
        let answer = api.send(method.clone(), path, Bytes::from(body)).await;
        let what = format!("{method} {path} {body}: {}", answer.text());
        assert_eq!(answer.code, code, "{what}");
        let status = answer.json();
        assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Failure")), "{what}");
        assert_eq!(status["code"], code, "{what}");
        assert!(status["message"].as_str().is_some_and(|message| message.contains(words)), "{what}");
    }
    let after = api.get(MAPS).await.expect(200)["metadata"]["resourceVersion"].clone();
    assert_eq!(before, after, "nothing was written");
}

#[tokio::test]
async fn patches_that_cannot_be_read_or_applied_are_refused() {
    let harness = Harness::start().await;
    let api = harness.admin();
    let object = format!("{MAPS}/a");
    api.post(MAPS, &json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).await.expect(201);
    for (content, body, code) in [
        ("application/json", "{}", 415),
        ("application/cbor", "{}", 415),
        ("application/merge-patch+json", "{", 400),
        ("application/json-patch+json", "{}", 400),
        ("application/json-patch+json", "[{\"op\":\"remove\",\"path\":\"/data/absent\"}]", 422),
        ("application/json-patch+json", "[{\"op\":\"test\",\"path\":\"/data/k\",\"value\":\"w\"}]", 422),
        ("application/merge-patch+json", "{\"metadata\":{\"resourceVersion\":\"1\"}}", 409),
        ("application/merge-patch+json", "{\"metadata\":{\"name\":\"b\"}}", 400),
        ("application/merge-patch+json", "{\"kind\":\"Pod\"}", 400),
        ("application/merge-patch+json", "{\"data\":7}", 422),
        ("application/apply-patch+yaml", "data: {}", 501),
    ] {
        let client = api.clone().with("content-type", content);
        let answer = client.send(Method::PATCH, &object, body).await;
        assert_eq!(answer.code, code, "{content} {body}: {}", answer.text());
    }
    assert_eq!(api.get(&object).await.expect(200)["data"], json!({"k": "v"}));
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let harness = Harness::start_on("127.0.0.1:0", |config| config.max_object_bytes = 10_000).await;
    let api = harness.admin();
    let body = json!({"metadata": {"name": "big"}, "data": {"k": "x".repeat(20_000)}});
    let answer = api.post(MAPS, &body).await;
    assert_eq!(answer.code, 413, "{}", answer.text());
    assert_eq!(answer.json()["reason"], "RequestEntityTooLarge");
    api.get(&format!("{MAPS}/big")).await.expect(404);
}

#[tokio::test]
async fn unknown_fields_are_dropped_with_a_warning() {
    let harness = Harness::start().await;
    let api = harness.admin();
    let body = json!({"metadata": {"name": "a"}, "nonsense": 1});
    let answer = api.post(MAPS, &body).await;
    assert_eq!(answer.expect(201)["nonsense"], Value::Null);
    let warning = answer.headers.get("warning").and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert!(warning.starts_with("299 - \"") && warning.contains("nonsense"), "{warning}");
}

#[tokio::test]
async fn protobuf_alone_is_not_acceptable_but_beside_json_it_is() {
    let harness = Harness::start().await;
    let api = harness.admin();
    let protobuf = api.clone().with("accept", "application/vnd.kubernetes.protobuf");
    assert_eq!(protobuf.get(MAPS).await.code, 406);
    let both = api.with("accept", "application/vnd.kubernetes.protobuf,application/json");
    both.get(MAPS).await.expect(200);
}
