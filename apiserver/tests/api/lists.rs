//! Lists: pages of one revision, selections, shapes.

use serde_json::{Value, json};

use crate::support::{Harness, Rest};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn fill(api: &Rest, count: usize) {
    for index in 0..count {
        let parity = if index % 2 == 0 { "even" } else { "odd" };
        let body = json!({"metadata": {"name": format!("m{index:02}"), "labels": {"n": parity}}});
        api.post(MAPS, &body).await.expect(201);
    }
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("items");
    items.iter().map(|item| item["metadata"]["name"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn all_pages_of_a_list_show_one_revision() {
    let harness = Harness::start().await;
    let api = harness.admin();
    fill(&api, 5).await;
    let first = api.get(&format!("{MAPS}?limit=2")).await.expect(200);
    assert_eq!(names(&first), ["m00", "m01"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);

    // What comes between the pages is not seen by the later ones.
    api.post(MAPS, &json!({"metadata": {"name": "m015"}})).await.expect(201);
    api.delete(&format!("{MAPS}/m04"), &Value::Null).await.expect(200);

    let mut seen = 2;
    let mut token = first["metadata"]["continue"].as_str().expect("a token").to_string();
    while !token.is_empty() {
        let page = api.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        assert!(!names(&page).contains(&"m015"));
        seen += names(&page).len();
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_string();
    }
    assert_eq!(seen, 5);
}

#[tokio::test]
async fn pages_are_filled_through_a_selector() {
    let harness = Harness::start().await;
    let api = harness.admin();
    fill(&api, 9).await;
    let first = api.get(&format!("{MAPS}?limit=2&labelSelector=n%3Dodd")).await.expect(200);
    assert_eq!(names(&first), ["m01", "m03"]);
    assert_eq!(first["metadata"]["remainingItemCount"], Value::Null, "it is not known with a selector");
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let second = api.get(&format!("{MAPS}?limit=9&labelSelector=n%3Dodd&continue={token}")).await.expect(200);
    assert_eq!(names(&second), ["m05", "m07"]);
    assert_eq!(second["metadata"]["continue"], Value::Null);
}

#[tokio::test]
async fn selectors_judge_labels_and_fields() {
    let harness = Harness::start().await;
    let api = harness.admin();
    fill(&api, 4).await;
    for (query, expected) in [
        ("labelSelector=n%3Deven", &["m00", "m02"][..]),
        ("labelSelector=n%20notin%20(even)", &["m01", "m03"]),
        ("labelSelector=!n", &[]),
        ("fieldSelector=metadata.name%3Dm01", &["m01"]),
        ("fieldSelector=metadata.name!%3Dm01", &["m00", "m02", "m03"]),
        ("labelSelector=n%3Deven&fieldSelector=metadata.name%3Dm01", &[]),
    ] {
        let list = api.get(&format!("{MAPS}?{query}")).await.expect(200);
        assert_eq!(names(&list), expected, "{query}");
    }
    let everywhere = "/api/v1/configmaps?fieldSelector=metadata.namespace%3Ddefault,metadata.name%3Dm02";
    assert_eq!(names(&api.get(everywhere).await.expect(200)), ["m02"]);
}

#[tokio::test]
async fn a_list_can_be_asked_for_at_a_revision() {
    let harness = Harness::start().await;
    let api = harness.admin();
    fill(&api, 2).await;
    let then =
        api.get(MAPS).await.expect(200)["metadata"]["resourceVersion"].as_str().expect("one").to_string();
    api.post(MAPS, &json!({"metadata": {"name": "later"}})).await.expect(201);
    let exact =
        api.get(&format!("{MAPS}?resourceVersion={then}&resourceVersionMatch=Exact")).await.expect(200);
    assert_eq!(names(&exact), ["m00", "m01"]);
    let newer = api
        .get(&format!("{MAPS}?resourceVersion={then}&resourceVersionMatch=NotOlderThan"))
        .await
        .expect(200);
    assert_eq!(names(&newer).len(), 3);
    let future = api.get(&format!("{MAPS}?resourceVersion=99999999&resourceVersionMatch=NotOlderThan")).await;
    let status = future.expect(504);
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[tokio::test]
async fn metadata_alone_can_be_asked_for() {
    let harness = Harness::start().await;
    let api = harness.admin();
    fill(&api, 1).await;
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
    let list = api.clone().with("accept", partial).get(MAPS).await.expect(200);
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
    assert_eq!(names(&list), ["m00"]);
    let yaml = api.with("accept", "application/yaml").get(&format!("{MAPS}/m00")).await;
    assert!(yaml.text().contains("kind: ConfigMap"), "{}", yaml.text());
}
