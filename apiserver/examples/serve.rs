//! An API server over a store in memory, for trying clients out: `serve <host:port> <kubeconfig to write>`.
//! A node `n1` that runs nothing answers logs and exec.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, reason = "the example uses a part of the tests' support")]
mod support;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use support::Harness;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".into());
    let file = arguments.next().unwrap_or_else(|| "kubeconfig".into());
    let harness = Harness::start_on(&address, |_| {}).await;
    let _node = support::agent::start(&harness, "n1").await;
    let admin = harness.ca.client("admin", &["system:masters"]);
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://{}", harness.address),
            "certificate-authority-data": STANDARD.encode(&harness.ca.cert_pem),
        }}],
        "users": [{"name": "admin", "user": {
            "client-certificate-data": STANDARD.encode(admin.cert_pem),
            "client-key-data": STANDARD.encode(admin.key_pem),
        }}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
    });
    std::fs::write(&file, config.to_string()).expect("the kubeconfig is written");
    println!("listening on {}; export KUBECONFIG={file}", harness.address);
    let _ = tokio::signal::ctrl_c().await;
}
