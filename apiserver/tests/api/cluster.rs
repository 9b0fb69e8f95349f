//! Operations on the servers go through the same authorization as everything else.

use kontiki_proto::Status;
use kontiki_proto::pb;
use kontiki_store::BackupCheck;

use crate::support::Harness;
use crate::support::agent::client;

#[tokio::test]
async fn a_backup_streams_to_whoever_may_have_it() {
    let harness = Harness::start().await;
    let data = serde_json::json!({"metadata": {"name": "large"}, "data": {"k": "v".repeat(900_000)}});
    for number in 0..3 {
        let mut one = data.clone();
        one["metadata"]["name"] = format!("large-{number}").into();
        harness.admin().post("/api/v1/namespaces/default/configmaps", &one).await.expect(201);
    }
    let before = harness.store.revision();
    let admin = client(&harness, &harness.ca.client("admin", &["system:masters"]));
    let mut parts = admin.cluster().backup(pb::BackupRequest {}).await.unwrap().into_inner();
    let mut check = BackupCheck::new();
    let mut largest = 0;
    while let Some(part) = parts.message().await.unwrap() {
        largest = largest.max(part.data.len());
        check.push(&part.data).unwrap();
    }
    let summary = check.finish().unwrap();
    assert!(summary.revision >= before && summary.bytes > 2_700_000, "{summary:?}");
    assert!(largest <= 256 << 10, "a message of {largest} bytes");
    assert_eq!(summary.cluster_id, harness.store.cluster_id());
}

#[tokio::test]
async fn nobody_else_touches_the_servers() {
    let harness = Harness::start().await;
    let somebody = client(&harness, &harness.ca.client("somebody", &["some-group"]));
    let mut cluster = somebody.cluster();
    let refusals: Vec<tonic::Status> = vec![
        cluster.backup(pb::BackupRequest {}).await.expect_err("refused"),
        cluster.replace(pb::ReplaceRequest::default()).await.expect_err("refused"),
        cluster.leave(pb::LeaveRequest { id: 1 }).await.expect_err("refused"),
        cluster.transfer(pb::TransferRequest::default()).await.expect_err("refused"),
        cluster.join(pb::JoinRequest::default()).await.expect_err("refused"),
        cluster.status(pb::StatusRequest {}).await.expect_err("refused"),
    ];
    for status in refusals {
        let status = Status::from(status);
        assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"), "{}", status.message);
        assert!(status.message.contains("\"somebody\""), "{}", status.message);
    }
}
