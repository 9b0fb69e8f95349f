//! Nodes: registration, and streams that travel back over what the agent dialled.

use futures::StreamExt;
use kontiki_proto::pb::{ExecInput, ExecStart, NodeHello, RegisterRequest, exec_input, exec_output};
use serde_json::json;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::agent::{self, client, register};
use crate::support::{Harness, Issued};

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn pod(harness: &Harness, node: &str) {
    let api = harness.admin();
    let account = json!({"metadata": {"name": "default"}});
    api.post("/api/v1/namespaces/default/serviceaccounts", &account).await;
    let body = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    api.post(PODS, &body).await.expect(201);
    let binding = json!({"target": {"kind": "Node", "name": node}});
    api.post(&format!("{PODS}/p/binding"), &binding).await.expect(201);
}

#[tokio::test]
async fn logs_and_exec_reach_the_node_that_runs_the_pod() {
    let harness = Harness::start().await;
    pod(&harness, "n1").await;
    let api = harness.admin();
    let early = api.get(&format!("{PODS}/p/log")).await.expect(503);
    assert!(early["message"].as_str().is_some_and(|m| m.contains("node n1 is not connected")), "{early}");

    let node = agent::start(&harness, "n1").await;
    let logs = api.get(&format!("{PODS}/p/log?tailLines=5")).await;
    assert_eq!((logs.code, logs.text().as_str()), (200, "c of p\nsecond\n"));
    let wrong = api.get(&format!("{PODS}/p/log?container=x")).await.expect(400);
    assert_eq!(wrong["message"], "container x is not valid for pod p");
    api.get(&format!("{PODS}/absent/log")).await.expect(404);

    let start = ExecStart {
        namespace: "default".into(),
        pod: "p".into(),
        command: vec!["echo".into(), "hi".into()],
        stdout: true,
        ..ExecStart::default()
    };
    let input = ExecInput { input: Some(exec_input::Input::Start(start)) };
    let admin = harness.ca.client("admin", &["system:masters"]);
    let outputs = client(&harness, &admin)
        .pod_streams()
        .exec(futures::stream::iter([input]))
        .await
        .expect("started")
        .into_inner();
    let outputs: Vec<_> =
        outputs.map(|output| output.expect("an output").output.expect("one")).collect().await;
    assert_eq!(outputs[0], exec_output::Output::Stdout("echo hi".into()));
    assert!(matches!(&outputs[1], exec_output::Output::Status(_)));
    node.abort();
}

#[tokio::test]
async fn only_a_bootstrap_token_or_the_node_itself_gets_a_nodes_certificate() {
    let harness = Harness::start().await;
    let key = rcgen::KeyPair::generate().expect("a key");
    let csr =
        rcgen::CertificateParams::default().serialize_request(&key).expect("a request").pem().expect("PEM");
    let ask = async |identity: &Issued, name: &str| {
        let request = RegisterRequest { node_name: name.into(), csr_pem: csr.clone() };
        let asked = client(&harness, identity).nodes().register(request).await;
        asked.map(drop).map_err(|error| error.code())
    };
    let stranger = harness.ca.client("stranger", &[]);
    assert_eq!(ask(&stranger, "n1").await, Err(tonic::Code::PermissionDenied));
    let node = register(&harness, "n1").await;
    assert_eq!(ask(&node, "n1").await, Ok(()), "a node renews its own");
    assert_eq!(ask(&node, "n2").await, Err(tonic::Code::PermissionDenied));
    let bootstrap = harness.ca.client("system:bootstrap:abcdef", &["system:bootstrappers"]);
    assert_eq!(ask(&bootstrap, "Not A Name").await, Err(tonic::Code::InvalidArgument));

    let (hellos, stream) = tokio::sync::mpsc::channel(1);
    hellos.send(NodeHello { node_name: "n2".into() }).await.expect("sent");
    let other = client(&harness, &node).nodes().listen(ReceiverStream::new(stream)).await;
    assert_eq!(other.map(drop).map_err(|error| error.code()), Err(tonic::Code::PermissionDenied));
}
