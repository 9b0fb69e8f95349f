//! Who may: certificates, tokens, anonymous callers; the same rules on every front.

use kontiki_apiserver::auth::User;
use kontiki_proto::api::{GetOptions, ListOptions};
use kontiki_proto::client::{Client, ClientConfig};
use kontiki_proto::{Api, Target};
use serde_json::{Value, json};

use crate::support::{Ca, Harness, Rest};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn maps() -> Target {
    Target {
        version: "v1".into(),
        resource: "configmaps".into(),
        namespace: "default".into(),
        ..Target::default()
    }
}

#[tokio::test]
async fn a_user_without_a_role_may_nothing_on_any_front() {
    let harness = Harness::start().await;
    let rest = harness.client("nobody", &[]).get(MAPS).await.expect(403);
    let message = "configmaps is forbidden: User \"nobody\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\"";
    assert_eq!((&rest["reason"], &rest["message"]), (&json!("Forbidden"), &json!(message)));

    let issued = harness.ca.client("nobody", &[]);
    let config = ClientConfig::new([harness.address.to_string()], &harness.ca.cert_pem)
        .with_identity(&issued.cert_pem, &issued.key_pem);
    let grpc = Client::new(config).expect("a client").list(&maps(), &ListOptions::default()).await;
    let status = grpc.expect_err("refused");
    assert_eq!((status.code, status.message.as_str()), (403, message));

    let local = harness.server.local(User::new("nobody", ["system:authenticated"]));
    let status = local.list(&maps(), &ListOptions::default()).await.expect_err("refused");
    assert_eq!((status.code, status.message.as_str()), (403, message));
}

#[tokio::test]
async fn a_role_lets_its_subjects_do_what_it_says() {
    let harness = Harness::start().await;
    let admin = harness.admin();
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({
        "metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}],
    });
    admin.post(&format!("{rbac}/roles"), &role).await.expect(201);
    let binding = json!({
        "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "team"}],
    });
    admin.post(&format!("{rbac}/rolebindings"), &binding).await.expect(201);
    let member = harness.client("someone", &["team"]);
    // The index follows the store.
    for _ in 0..200 {
        if member.get(MAPS).await.code == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    member.get(MAPS).await.expect(200);
    member.post(MAPS, &json!({"metadata": {"name": "a"}})).await.expect(403);
    member.get("/api/v1/namespaces/kube-system/configmaps").await.expect(403);
}

#[tokio::test]
async fn without_credentials_only_health_and_version_are_told() {
    let harness = Harness::start().await;
    let anonymous = harness.anonymous();
    assert_eq!(anonymous.get("/healthz").await.code, 200);
    assert_eq!(anonymous.get("/readyz").await.text(), "ok");
    assert_eq!(anonymous.get("/version").await.expect(200)["major"], "1");
    assert_eq!(anonymous.get(MAPS).await.expect(403)["reason"], "Forbidden");
    let wrong = anonymous.with("authorization", "Bearer nonsense").get(MAPS).await.expect(401);
    assert_eq!(wrong["message"], "Unauthorized");
}

#[tokio::test]
async fn tokens_of_the_token_file_are_known() {
    let directory = std::env::temp_dir().join(format!("kontiki-tokens-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let file = directory.join("tokens.csv");
    std::fs::write(&file, "secret,alice,1,\"system:masters,others\"\n").expect("written");
    let harness = Harness::start_on("127.0.0.1:0", |config| config.token_file = Some(file.clone())).await;
    harness.anonymous().with("authorization", "Bearer secret").get(MAPS).await.expect(200);
    let config = ClientConfig::new([harness.address.to_string()], &harness.ca.cert_pem);
    let grpc = Client::new(config.with_token("secret".into())).expect("a client");
    grpc.list(&maps(), &ListOptions::default()).await.expect("allowed");
    std::fs::remove_dir_all(&directory).expect("removed");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_in_the_handshake() {
    let harness = Harness::start().await;
    let foreign = Ca::new().client("admin", &["system:masters"]);
    let client = Rest::new(&harness.ca, harness.address, Some(&foreign));
    assert!(client.try_get(MAPS).await.is_err());
    harness.admin().get(MAPS).await.expect(200);
}

#[tokio::test]
async fn the_servers_own_controllers_see_what_clients_write() {
    let harness = Harness::start().await;
    let api = harness.server.local(User::controllers());
    let target = maps().named("a");
    assert!(api.get(&target, &GetOptions::default()).await.expect_err("not yet").is_not_found());
    harness.admin().post(MAPS, &json!({"metadata": {"name": "a"}})).await.expect(201);
    let read = api.get(&target, &GetOptions::default()).await.expect("read");
    let read: Value = serde_json::from_slice(&read).expect("JSON");
    assert_eq!(read["metadata"]["name"], "a");
}

#[tokio::test]
async fn a_stopping_server_ends_its_watches_and_closes_its_port() {
    let mut harness = Harness::start().await;
    let mut events = harness.admin().watch(&format!("{MAPS}?watch=1")).await;
    harness.shut_down().await;
    assert!(events.next().await.is_none());
    assert!(tokio::net::TcpStream::connect(harness.address).await.is_err());
}
